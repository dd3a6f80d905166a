"""The end of a run: best.yaml, tables, page and what MLflow gets are there whatever was measured, and say numbers."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import UserError
from search.report import gallery, page
from search.report.leader_text import Samples
from search.results import export, table
from search.results.attempt import attempt, lines
from search.results.standing import standings
from search.spec.objective import OBJECTIVES
from search.spec.space import readable
from search.study.folder import trial_folder
from search.study.ledger import Ledger
from search.study.scores import best
from search.study.study import Study, read_study
from search.tracking import mlflow_facts
from tests import journals
from trainer.config import TrainConfig, load
from trainer.scores import SCORES, Scores

RATES = ([1e-4, 1e-2], [1e-300, 1e300], [1e-3, 1.0000000000000002e-3], [5e-324, 1e-323], [1e-300, 2e-300])
DECAYS = ([0.0, 0.1], [0.0, 1e300], [0.1, 0.10000000000000002], [0.0, 5e-324], [1e307, 1.7e308])
PERPLEXITY = st.sampled_from([1e-300, 1e-5, 0.5, 1.0, 4.0, 4.0000001, 12.0, 6.6e20, 1e300, 1.7e308]) | st.floats(
    1e-300, 1e300, exclude_min=True
)
ANY = st.sampled_from([0.0, 1e-300, 1.0, 1e300, -1e300, math.inf, -math.inf, math.nan]) | st.floats()
OTHERS = ("val_loss", "val_loss_subset", "val_bits_per_byte", "val_accuracy", "train_loss", "seconds", "peak_memory_mb")
many = settings(max_examples=30, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


@st.composite
def histories(draw: st.DrawFn) -> dict[str, Any]:
    """What is written into a journal."""
    place = st.sampled_from([0.0, 0.5, 0.99, 1.0]) | st.floats(0, 1)
    log, uniform = draw(st.sampled_from(RATES)), draw(st.sampled_from(DECAYS))
    trials = [
        {
            "rate": min(max(log[0] ** (1 - at) * log[1] ** at, log[0]), log[1]),
            "decay": min(max(uniform[0] * (1 - draw(place)) + uniform[1] * at, uniform[0]), uniform[1]),
            "value": draw(PERPLEXITY | st.sampled_from([math.inf, math.nan])),
            "rung": draw(PERPLEXITY),
            "others": draw(st.dictionaries(st.sampled_from(OTHERS), ANY)),
            "seeds": draw(st.just([]) | st.lists(PERPLEXITY, min_size=1, max_size=3)),
            "status": draw(st.sampled_from(["completed"] * 4 + ["pruned", "diverged", "running"])),
            "scores": draw(st.booleans()),
        }
        for at in draw(st.lists(place, min_size=1, max_size=9))
    ]
    objective = draw(st.sampled_from(["val_perplexity"] * 3 + ["val_bits_per_byte"]))
    floor = draw(st.none() | st.sampled_from([1e-300, 1.4, 1e300]))
    return {"log": log, "uniform": uniform, "trials": trials, "objective": objective, "floor": floor}


@contextmanager
def study_of(history: dict[str, Any]) -> Iterator[Study]:
    with tempfile.TemporaryDirectory() as folder:
        header = journals.header("quick")
        header["spec"]["objective"] = history["objective"]
        header["spec"]["space"] = {
            "learning_rate": {"log": history["log"]},
            "weight_decay": {"uniform": history["uniform"]},
            "n_layer": {"choice": [1, 2, 4]},
        }
        if history["floor"] is not None:
            header["data"]["floor"] = {"val_perplexity": history["floor"], "val_bits_per_byte": history["floor"]}
        ledger = Ledger(Path(folder) / "quick")
        ledger.write("study", **header)
        for number, trial in enumerate(history["trials"]):
            _write(ledger, number, trial, history["objective"])
        again = len(history["trials"])
        for number, trial in enumerate(history["trials"]):
            if trial["status"] != "completed" or not math.isfinite(trial["value"]):
                continue
            for round_, value in enumerate(trial["seeds"], 1):
                run = {**trial, "value": value, "rung": None}
                _write(ledger, again, run, history["objective"], of=number, round=round_)
                again += 1
        ledger.close()
        yield read_study(Path(folder) / "quick")


def _write(ledger: Ledger, number: int, trial: dict[str, Any], objective: str, **more: Any) -> None:
    point = {"learning_rate": trial["rate"], "weight_decay": trial["decay"], "n_layer": [1, 2, 4][number % 3]}
    config = TrainConfig(max_tokens=journals.LENGTH, **point).model_dump()
    ledger.write("point", trial=number, point=point, config=config, name=readable(point), exempt=True, **more)
    journals.start(ledger, number)

    def report(tokens: int, rung: int | None, value: float) -> None:
        nats = math.log(value) if 0 < value < math.inf else value
        metrics = {"val_perplexity": value, "val_loss": nats, **trial["others"], objective: value}
        final = tokens == journals.LENGTH
        facts = {"step": tokens // 100, "tokens": tokens, "rung": rung, "final": final}
        ledger.write("report", trial=number, metrics=metrics, checkpoint=None, **facts)

    if trial["rung"] is not None:
        report(1000, 1000, trial["rung"])
        decision = {"value": trial["rung"], "cutoff": trial["rung"], "of": 3}
        ledger.write("decision", trial=number, rung=1000, action="continue", **decision)
    if trial["status"] == "completed":
        report(journals.LENGTH, None, trial["value"])
    if trial["status"] != "running":
        journals.end(ledger, number, trial["status"], rung=1000 if trial["status"] == "pruned" else None)
    if trial["scores"] and math.isfinite(trial["value"]):
        _save_scores(ledger, number, trial["value"])


def _save_scores(ledger: Ledger, number: int, value: float) -> None:
    rng = np.random.default_rng(number)
    nats = np.log(value) * rng.uniform(0.5, 1.5, 20)
    nats[0] *= 1e300 if number % 3 == 0 else 1
    tokens = np.full(20, 10)
    scores = Scores(nats * tokens, nats * tokens, tokens, tokens * 4, one_document=False)
    place = trial_folder(ledger.journal.path.parent, number)
    place.mkdir(parents=True, exist_ok=True)
    scores.save(place / SCORES)


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is no JSON")


@many
@given(history=histories())
def test_whatever_was_measured_the_end_of_a_run_has_all_its_parts(history: dict[str, Any]) -> None:
    with study_of(history) as study:
        folder = study.folder
        assert folder is not None
        ranked = standings(study)
        path = export.write_best(study, folder, ranked)
        assert (path is None) == (best(study) is None)
        texts = [page.page(study, Samples(reason="a test"), ranked)]
        assert not re.search(r'="[^"]*\b(nan|inf)\b', texts[0]), "a chart without a place"
        if path is not None:
            assert load(path).learning_rate == best(study).config["learning_rate"]  # type: ignore[union-attr]
            texts.append(path.read_text())
        for by in (None, "n_layer"):
            texts += [table.render(study, by), table.markdown(study, by), table.as_csv(study, by)]
            texts.append(table.as_json(study, by))
            json.loads(texts[-1], parse_constant=refuse)
            assert len(list(csv.DictReader(io.StringIO(texts[-2], newline="")))) == (
                len(study.searched) if by is None else len({trial.point["n_layer"] for trial in study.searched})
            )
        json.loads(json.dumps(mlflow_facts.split(study, ranked), allow_nan=False))
        mlflow_facts.texts({**mlflow_facts.study_params(study.header), **mlflow_facts.study_tags(study)})
        for trial in study.trials.values():
            for _, value, _, _ in mlflow_facts.ending(study, trial, 0):
                assert math.isfinite(value)
        assert not [line for text in texts for line in text.splitlines() if "not computed" in line]


def test_what_cannot_be_computed_costs_only_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header = journals.header("quick")
    header["spec"]["space"] = {"rate": {"field": "learning_rate", "log": [1e-3, 1e-1]}}
    ledger = Ledger(tmp_path / "quick")
    ledger.write("study", **header)
    configs = [TrainConfig(max_tokens=journals.LENGTH, learning_rate=1e-3 * (n + 1)).model_dump() for n in range(3)]
    for number, value in enumerate((5.0, 4.0, 6.0)):
        # no number, as a journal of other software could have: the charts of the space and the cautions cannot use it
        ledger.write("point", trial=number, point={"rate": f"x{number}"}, config=configs[number], name=f"t{number}")
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, value)
        journals.end(ledger, number, "completed")
    ledger.close()
    folder = tmp_path / "quick"
    export.write_results(folder)
    gallery.write_beside(folder)
    page.write_beside(folder)
    assert capsys.readouterr().err == ""
    assert load(folder / export.NAME) == TrainConfig.model_validate(configs[1])
    table_lines = (folder / "leaderboard.md").read_text().splitlines()
    assert "| 1 | 1 | 4.000 |" in table_lines[4]
    assert [line.partition(": not computed: ")[0] for line in table_lines if "not computed" in line] == [
        "caution: edges of ranges"
    ]
    html = (folder / page.NAME).read_text()
    for title, what in (("Parallel coordinates", "ValueError"), ("Slices", "ValueError")):
        place = html.index(f"<h3>{title}</h3>")
        assert what in html[place : place + 200]
    assert "learning curves" in html
    assert (folder / gallery.FOLDER / "trials.png").is_file()


def test_a_reason_is_one_line_that_says_where() -> None:
    def fail(text: str) -> None:
        raise ValueError(text)

    assert re.fullmatch(
        r"not computed: ValueError: a \\x1b\[2J b \(test_search_extremes.py:\d+\)", str(attempt(fail, "a\n\x1b[2J b"))
    )
    assert str(attempt(fail, "")).startswith("not computed: ValueError (")
    assert attempt(len, "abc") == 3
    assert lines("it", iter, ["a", "b"]) == ["a", "b"]

    def half() -> Iterator[str]:
        yield "a"
        raise UserError("as a user would be told")

    assert lines("it", half) == ["it: not computed: as a user would be told"]


PER_CENT = st.floats(-100, None)


@given(difference=PER_CENT, ends=st.none() | st.tuples(PER_CENT, PER_CENT), other=st.floats())
def test_a_difference_is_short(difference: float, ends: tuple[float, float] | None, other: float) -> None:
    assert len(OBJECTIVES["val_perplexity"].show_difference(difference, ends)) < 50
    assert len(OBJECTIVES["val_bits_per_byte"].show_difference(other, (other, -other))) < 50
    for objective in OBJECTIVES.values():
        assert len(objective.show_size(other)) < 50


def test_a_difference_beyond_a_factor_of_a_thousand_is_a_factor() -> None:
    objective = OBJECTIVES["val_perplexity"]
    difference = objective.difference(math.log(6.6e20) - math.log(13.5))
    assert objective.show_difference(difference) == "× 4.9e19"
    assert objective.show_difference(difference, (50.0, difference)) == "× 4.9e19 (× 1.5 to × 4.9e19)"
    assert objective.show_difference(99_800.0) == "+99800.0%"
    assert objective.show_difference(99_900.0) == "× 1e3"
    assert objective.show_size(math.log(2000)) == "a factor of 2e3 in perplexity"
