"""Parameters keep the names that their user gives them: whatever these are, nothing of ours is hidden or broken."""

from __future__ import annotations

import csv
import io
import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from search.leaderboard import frame
from search.report import gallery, page
from search.report.leader_text import Samples
from search.results import export, leaderboard, table
from search.results.standing import rows
from search.spec.space import readable
from search.study.ledger import Ledger
from search.study.study import Study, read_study
from search.tracking import mlflow_facts, mlflow_runs, mlflow_store
from search.tracking.mlflow_tracker import MlflowTracker
from tests import journals, specs
from tests.refusals import facts, key_refusal
from tests.stores import fresh_store
from tests.test_search_report import Page
from trainer import provenance
from trainer.config import TrainConfig

OURS = ["tokens", "name", "status", "trial", "#", "rank", "of", "round", "group", "objective", "value", "cause", "loss"]
ODD = [
    *(
        "lr (log)?",
        "<b>x</b>",
        "größe 学习率 🐈",
        "x" * 200,
        "?" * 200,
        " lr ",
        "a/b",
        "../../x",
        "a.b",
        "a=b",
        "params_x",
    ),
    *("a|b", "a\\|b", "`a`", "[a](b)", "_a_", "*a*", "&lt;", "$x$", "%s", "{0}", "'", '"', ",", ":", "-lr", "@lr", "~"),
]
NAME = st.sampled_from([*OURS, *ODD]) | st.text(
    st.characters(exclude_categories=("C", "Z"), include_characters=" "), min_size=1, max_size=30
).filter(str.strip)
NAMES = st.lists(NAME, min_size=2, max_size=2, unique=True)
PLAIN = ["first", "second"]
FIELDS = ("learning_rate", "weight_decay")


@contextmanager
def study_of(names: list[str]) -> Iterator[Study]:
    """Three trials, one of them broken, over two parameters of these names."""
    with tempfile.TemporaryDirectory() as folder:
        header = journals.header("quick")
        header["spec"]["space"] = {
            name: {"field": field, "log": [1e-4, 1e-1]} for name, field in zip(names, FIELDS, strict=True)
        }
        ledger = Ledger(Path(folder) / "quick")
        ledger.write("study", **header)
        for number, value in enumerate((5.0, 4.0, None)):
            values = (1e-3 * (number + 1), 0.01 * (number + 1))
            point, setting = dict(zip(names, values, strict=True)), dict(zip(FIELDS, values, strict=True))
            config = TrainConfig(max_tokens=journals.LENGTH, **setting).model_dump()
            ledger.write("point", trial=number, point=point, config=config, name=readable(point))
            journals.start(ledger, number)
            if value is not None:
                journals.report(ledger, number, journals.LENGTH, value)
            journals.end(ledger, number, "failed" if value is None else "completed")
        ledger.close()
        yield read_study(Path(folder) / "quick")


def renamed(row: dict[str, Any], names: list[str]) -> dict[str, Any]:
    """A row of the study of plain names as it is with these."""
    columns = {f"params_{plain}": f"params_{name}" for plain, name in zip(PLAIN, names, strict=True)}
    return {columns.get(key, key): value for key, value in row.items()}


def without_names(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in ("name", "seconds")}


many = settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@many
@given(names=NAMES)
def test_rows_are_the_same_but_for_the_names(names: list[str]) -> None:
    with study_of(PLAIN) as plain, study_of(names) as study:
        expected = [without_names(renamed(row, names)) for row in rows(plain)]
        assert [without_names(row) for row in rows(study)] == expected
        trials = json.loads(table.as_json(study))["trials"]
        assert [without_names(row) for row in trials] == [json.loads(json.dumps(row)) for row in expected]
        lines = list(csv.DictReader(io.StringIO(table.as_csv(study), newline="")))
        assert [line["trial"] for line in lines] == ["1", "0", "2"]
        assert [line[f"params_{names[0]}"] for line in lines] == ["0.002", "0.001", "0.003"]
        assert [line["status"] for line in lines] == ["completed", "completed", "failed"]
        assert list(frame(study)[f"params_{names[1]}"]) == [0.02, 0.01, 0.03]


@many
@given(names=NAMES)
def test_tables_show_the_names_as_they_are(names: list[str]) -> None:
    with study_of(names) as study:
        heads, lines, _ = table.cells(study, None, [])
        assert [line[heads.index("status")] for line in lines] == ["completed", "completed", "failed"]
        parsed = Page(page.page(study, Samples(reason="a test")))
        assert {line[parsed.tables[0][0].index("config")] for line in parsed.tables[0][1:]} == {
            line[heads.index("config")] for line in lines
        }
        for by in (None, names[0]):
            expected = table._cells(study, by, None, [])
            tokens = MarkdownIt("commonmark").enable("table").parse(table.markdown(study, by, ranked=[]))
            cells = [
                "".join(part.content for part in tokens[at + 1].children or [])
                for at, token in enumerate(tokens)
                if token.type in ("th_open", "td_open")
            ]
            flat = [cell for line in (expected.heads, *expected.lines) for cell in line]
            assert cells == [" ".join(cell.split()) for cell in flat]
            kinds = {part.type for token in tokens for part in token.children or []}
            assert kinds <= {"text", "text_special", "hardbreak", "softbreak"}


@many
@given(names=NAMES)
def test_the_values_of_any_parameter_are_compared(names: list[str]) -> None:
    with study_of(names) as study:
        shown = table.render(study, by=names[0], width=2000).splitlines()
        assert shown[0].startswith("#")
        assert [line.split()[:2] for line in shown[1:3]] == [["1", "0.002"], ["2", "0.001"]]
        groups = json.loads(table.as_json(study, names[0]))["groups"]
        assert [(group["trials"], group["best_trial"]) for group in groups] == [(1, 1), (1, 0), (1, None)]


@many
@given(names=NAMES)
def test_the_best_config_says_its_point(names: list[str]) -> None:
    with study_of(names) as study:
        path = Path(study.folder or ".") / export.NAME
        export.write_best(study, path.parent)
        written = provenance.read(path)
        assert written is not None
        assert written.point == {names[0]: 0.002, names[1]: 0.02}


def test_a_picture_by_a_parameter_lies_in_its_folder(tmp_path: Path) -> None:
    for at, name in enumerate(["../../x", "a/b", "?" * 200, "学" * 100]):
        with study_of([name, "other"]) as study:
            drawn = gallery.of_study(study, tmp_path / str(at), by=name)
        assert any(path.name.startswith("by-") for path in drawn.paths)
        assert {path.parent for path in tmp_path.rglob("*.png")} <= {tmp_path / str(i) for i in range(at + 1)}


def test_no_column_of_ours_looks_like_a_parameter() -> None:
    with study_of(PLAIN) as study:
        (row, *_) = rows(study)
        assert {key for key in row if key.startswith("params_")} == {"params_first", "params_second"}


def test_a_linked_parameter_has_a_column_for_each_of_its_keys() -> None:
    point = {"width": {"n_embd": 384, "n_head": 6}, "n_embd": 8}
    assert leaderboard.parameters(point) == {"params_width.n_embd": 384, "params_width.n_head": 6, "params_n_embd": 8}


# the spec


def quoted(name: str) -> str:
    return json.dumps(name, ensure_ascii=False)


@pytest.mark.parametrize("name", [*OURS, *(name for name in ODD if name != " lr ")])
def test_a_spec_takes_any_name_of_one_line(tmp_path: Path, name: str) -> None:
    spec, _, _ = specs.read(tmp_path, f"space: {{{quoted(name)}: {{field: learning_rate, log: [1e-3, 1e-2]}}}}\n")
    assert list(spec.space) == [name]


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "\x1b[2J", "a\u2028b", "x" * 201])
def test_a_spec_refuses_a_name_that_is_no_line(tmp_path: Path, name: str) -> None:
    text = f"space: {{{json.dumps(name)}: {{field: learning_rate, log: [1e-3, 1e-2]}}}}\n"
    assert facts(key_refusal(lambda: specs.read(tmp_path, text)))[0] == "name"


def test_a_spec_refuses_two_columns_of_one_name(tmp_path: Path) -> None:
    text = "space: {w: {choice: [{n_embd: 128}]}, w.n_embd: {field: learning_rate, log: [1e-3, 1e-2]}}\n"
    assert facts(key_refusal(lambda: specs.read(tmp_path, text))) == ("twice", ("w.n_embd", "w"), 4)


# MLflow


@settings(max_examples=150, deadline=None, derandomize=True)
@given(names=st.lists(NAME | st.text(min_size=1, max_size=200), min_size=2, max_size=2, unique=True))
def test_mlflow_has_a_key_for_every_name(names: list[str]) -> None:
    from mlflow.utils.validation import MAX_ENTITY_KEY_LENGTH, _validate_param_name

    keys = [mlflow_facts.key("space", name) for name in names]
    assert keys[0] != keys[1]
    for key, name in zip(keys, names, strict=True):
        _validate_param_name(key)
        assert len(key) <= MAX_ENTITY_KEY_LENGTH
        if "::" not in key:
            decoded = re.sub(":([0-9a-f]+):", lambda sign: chr(int(sign[1], 16)), key)
            assert decoded == f"space.{name}"


def test_mlflow_gets_all_params_whatever_the_names_and_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    fresh_store(tmp_path)
    header = journals.header("quick")
    header["spec"]["space"] = {name: {"field": "learning_rate", "log": [1e-3, 1e-2]} for name in [*OURS, *ODD]}
    header["spec"]["set"] = {"corpus": "x" * 7000, "loss_params.a?b": 1}
    ledger = Ledger(tmp_path / "quick")
    ledger.write("study", **header)
    journals.complete(ledger, 0, 4.0, learning_rate=1e-3)
    said: list[str] = []
    tracker = MlflowTracker(tmp_path / "quick", say=said.append)
    tracker.connect()
    tracker.follow(ledger)
    assert tracker.close(60) == ""
    assert said == []
    client = mlflow_store.connect(mlflow_store.choose_uri(tmp_path))
    (parent,) = client.search_runs(
        [client.get_experiment_by_name("quick").experiment_id], f"tags.`{mlflow_runs.STUDY}` = 'quick'"
    )
    params = parent.data.params
    assert {mlflow_facts.key("space", name) for name in [*OURS, *ODD]} <= params.keys()
    assert len(params["set.corpus"]) >= 5000
    assert params["sampler"] == "random"
    # what a store refuses all the same costs only itself
    refused = mlflow_runs.send(client, parent.info.run_id, params={"a?b": 1, "fine": 2}, tags={"also": "sent"})
    assert list(refused) == ["a?b"]
    run = client.get_run(parent.info.run_id)
    assert (run.data.params["fine"], run.data.tags["also"]) == ("2", "sent")
