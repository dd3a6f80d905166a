"""A study record is read once into its types, whatever release of ours wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from search.cli.main import main
from search.results import table
from search.study import header
from search.study.journal import NAME, VERSION
from search.study.study import read_study
from search.study.study_record import Header, read_header
from tests import journals
from tests.refusals import facts, refusal


def record(**changes: Any) -> Header:
    return read_header({"record": "study", "time": 1.0, **journals.header(**changes)})


def spec(**changes: Any) -> dict[str, Any]:
    return {**journals.header()["spec"], **changes}


def test_fields_have_their_types() -> None:
    read = record(data={"corpus": "stories", "hash": "abc", "tokenizers": {"char": {"train_tokens": 7}}})
    assert (read.name, read.spec.sampler, read.spec.budget.trials) == ("quick", "random", 8)
    assert read.base.max_tokens == journals.LENGTH
    assert (read.data.corpus, read.data.hash, read.data.tokenizers["char"].train_tokens) == ("stories", "abc", 7)
    assert read.rungs == (1000, 4000)
    assert read.code == "0123456789abcdef with uncommitted changes"
    assert read.spec_reading.exact


def test_an_older_record_is_read_with_what_it_lacks_as_by_default() -> None:
    old = {"record": "study", "time": 1.0, "version": 1, "spec": {"study": "old", "space": spec()["space"]}}
    read = read_header(old)
    assert (read.name, read.spec.objective, read.spec.finalists) == ("old", "val_perplexity", None)
    assert {*read.spec.space} == {"learning_rate", "loss", "squentropy_lambda"}
    assert (read.rungs, read.data.hash, read.data.floor, read.commit, read.dirty) == ((), "", {}, "", None)
    assert read.code == "unknown"


def test_keys_that_this_release_does_not_have_are_left_out_and_named() -> None:
    space = {**spec()["space"], "dropout": {"uniform": [0, 0.5], "prior": "beta"}}
    scheduler = {"asha": {"first_rung": 1000, "grace": 3}}
    read = record(spec=spec(mood="good", space=space, scheduler=scheduler)).spec_reading
    assert {*read.unknown} == {"mood", "space.dropout.prior", "scheduler.asha.grace"}
    assert read.refused == ()
    assert read.model.space["dropout"].uniform == [0, 0.5]
    assert read.model.rungs(8000) == [1000, 4000]


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({"seed": -1}, {"seed"}),
        ({"finalists": {"top": 1, "seeds": 3}}, {"finalists"}),
        ({"compare": "momentum"}, {"compare"}),
        ({"study": "../../etc/x"}, {"study"}),
        ({"budget": {}}, {"budget"}),
        ({"space": {"learning_rate": {"log": [1, -1]}, "dropout": {"uniform": [0, 0.5]}}}, {"space.learning_rate"}),
        ({"space": {"learning_rate": {"log": [1, -1]}}}, {"space.learning_rate", "space"}),
        ({"space": {}}, {"space"}),
        ({"scales": {"big": {"budget": {}}}}, {"scales"}),
    ],
)
def test_values_that_today_are_refused_do_not_hinder_reading(changes: dict[str, Any], refused: set[str]) -> None:
    read = record(spec=spec(**changes))
    assert {*read.spec_reading.refused} == refused
    assert read.spec.sampler == "random"
    assert read.name == changes.get("study", "quick")
    assert "learning_rate" not in read.spec.space or "space" not in changes


def test_a_base_with_keys_of_another_release_is_read_without_them() -> None:
    read = record(base={"learning_rate": 0.5, "flux": 1, "n_embd": 3, "n_head": 2, "dtype": "float64"})
    assert read.base.learning_rate == 0.5
    assert read.base_reading.unknown == ("flux",)
    assert {"dtype", "n_embd"} == {*read.base_reading.refused}


@pytest.mark.parametrize("changes", [{"mood": "good"}, {"seed": -1}, {"compare": "momentum"}, {"sampler": "luck"}])
def test_everything_that_reads_a_study_takes_a_spec_of_another_release(
    tmp_path: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    journals.write_study(tmp_path / "quick", spec=spec(**changes), base={"flux": 1}).close()
    folder = str(tmp_path / "quick")
    for command in (
        ["leaderboard", folder],
        ["leaderboard", folder, "--by", "loss"],
        ["report", folder],
        ["export", folder, "-o", str(tmp_path / "best.yaml")],
    ):
        assert main(command) == 0, capsys.readouterr().err


def test_a_study_of_another_release_is_not_gone_on_with(tmp_path: Path) -> None:
    written = record(spec=spec(mood="good"))
    error = refusal(lambda: header.check_same(written.spec, written.base, written))
    assert facts(error) == ("other_release", ("mood",), None)
    assert str(error) == (
        "study quick was begun by another release: this one does not take the mood of its spec; continue with that "
        "release, or begin another study (study:)"
    )
    changed = record(base={"flux": 1})
    error = refusal(lambda: header.check_same(changed.spec, changed.base, changed))
    assert facts(error) == ("other_release", ("flux",), None)
    exact = record()
    header.check_same(exact.spec, exact.base, exact)


def test_a_base_of_an_older_release_has_the_defaults_of_what_it_lacks() -> None:
    base = {key: value for key, value in journals.header()["base"].items() if key != "eval_stride"}
    old = record(base=base)
    header.check_same(old.spec, old.base, old)


def rewritten(folder: Path, **changes: Any) -> None:
    """The journal with its study record changed; ... leaves the key out."""
    first, *rest = (folder / NAME).read_text().splitlines(keepends=True)
    changed = {key: value for key, value in {**json.loads(first), **changes}.items() if value is not ...}
    (folder / NAME).write_text(json.dumps(changed) + "\n" + "".join(rest))


def test_a_journal_of_a_newer_release_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    journals.write_study(tmp_path / "quick").close()
    rewritten(tmp_path / "quick", version=VERSION + 1, spec={"other": "shape"})
    assert main(["leaderboard", str(tmp_path / "quick")]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{NAME}:1: journal version {VERSION + 1} is of a newer release" in said


def test_a_record_of_a_newer_release_is_refused_and_of_an_unknown_kind_alone_passed_over(tmp_path: Path) -> None:
    folder = tmp_path / "quick"
    journals.write_study(folder).close()
    with (folder / NAME).open("a") as file:
        file.write('{"record": "note", "time": 1, "trial": 0, "text": "new"}\n')
    assert len(read_study(folder).trials) == 7
    with (folder / NAME).open("a") as file:
        file.write(f'{{"record": "dream", "time": 1, "version": {VERSION + 1}}}\n')
    assert refusal(lambda: read_study(folder)).kind == "newer"


@pytest.mark.parametrize("lacking", [["version"], ["base", "data", "rungs"], ["commit", "dirty", "packages"]])
def test_an_older_journal_with_fields_missing_is_read(tmp_path: Path, lacking: list[str]) -> None:
    journals.write_study(tmp_path / "quick").close()
    whole = table.render(read_study(tmp_path / "quick"))
    rewritten(tmp_path / "quick", **dict.fromkeys(lacking, ...))
    assert table.render(read_study(tmp_path / "quick")).splitlines()[:3] == whole.splitlines()[:3]
