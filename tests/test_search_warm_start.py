"""An earlier study's trials, taken over once."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from data.errors import UserError
from search.spec.study_spec import StudySpec
from search.strategy.warm_start import other_base, summary, take_over
from search.study.header import plain
from search.study.journal import NAME
from search.study.ledger import Ledger
from search.study.study import Study
from tests import journals
from tests.refusals import refusal
from tests.specs import sampler_of
from trainer.config import TrainConfig

DATA: dict[str, Any] = journals.header()["data"]
SPACE: dict[str, Any] = journals.header()["spec"]["space"]


def spec(folder: Path, earlier: str = "before", space: dict[str, Any] | None = None, **changes: Any) -> StudySpec:
    fields = {"study": "s", "base": "b", "space": space or SPACE, "budget": {"trials": 9}, "sampler": "tpe"}
    return StudySpec.model_validate({**fields, "storage": str(folder), "warm_start": earlier, **changes})


def taken(folder: Path, earlier: str = "before", length: int = journals.LENGTH, **changes: Any) -> list[dict[str, Any]]:
    return take_over(spec(folder, earlier, **changes), DATA, length)


def refused(folder: Path, earlier: str = "before", length: int = journals.LENGTH, **changes: Any) -> UserError:
    return refusal(lambda: taken(folder, earlier, length, **changes))


@pytest.fixture
def storage(tmp_path: Path) -> Path:
    """One trial of each kind, 0 to 6, as study `before`."""
    journals.write_study(tmp_path / "before").close()
    return tmp_path


def told(rows: list[dict[str, Any]], folder: Path) -> Study:
    """The rows as a new study's journal gives them back."""
    ledger = Ledger(folder)
    ledger.write("study", **journals.header("s"))
    ledger.write("prior", trials=rows)
    ledger.close()
    return Ledger(folder).study


def test_every_trial_that_says_something_is_taken_with_what_it_reached(storage: Path) -> None:
    rows = taken(storage)
    assert [(row["trial"], row["status"], row["objective"]) for row in rows] == [
        (0, "completed", 5.0),
        (1, "completed", 4.0),
        (2, "pruned", None),
        (3, "diverged", None),
        (4, "failed", None),
        (5, "interrupted", None),
    ]  # 6 waits: nobody knows anything of it
    assert rows[0]["scores"] == {1000: 8.0, 4000: 4.5, journals.LENGTH: 5.0}
    assert rows[3]["scores"] == {}  # nan is no value
    assert rows[5]["scores"] == {1000: 6.0, 4000: 5.5}
    assert {row["study"] for row in rows} == {"before"}
    study = told(rows, storage / "s")
    trials = sampler_of(spec(storage))._history(study)
    states = [trial.state.name for trial in trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "COMPLETE", "PRUNED"]
    assert trials[5].intermediate_values == pytest.approx({1000: math.log(6), 4000: math.log(5.5)})


def test_the_journal_alone_is_read_from_then_on(storage: Path) -> None:
    study = told(taken(storage), storage / "s")
    first = sampler_of(spec(storage)).ask(0, study)
    shutil.rmtree(storage / "before")
    assert sampler_of(spec(storage)).ask(0, Ledger(storage / "s").study) == first


def test_it_is_found_by_name_by_folder_and_by_journal(storage: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for given in (storage / "before", storage / "before" / NAME):
        assert taken(elsewhere, str(given)) == taken(storage)
    assert take_over(spec(storage, warm_start=None), DATA, journals.LENGTH) == []


def test_shorter_trials_count_as_cut_short_where_they_ended(storage: Path) -> None:
    rows = taken(storage, length=4 * journals.LENGTH)
    assert rows[0]["objective"] is None
    assert rows[0]["tokens"] == journals.LENGTH
    trials = sampler_of(spec(storage))._history(told(rows, storage / "s"))
    assert trials[0].state.name == "PRUNED"
    assert trials[0].last_step == journals.LENGTH
    assert trials[0].intermediate_values[journals.LENGTH] == pytest.approx(math.log(5))
    assert trials[3].state.name == "COMPLETE"  # diverged there, and will here
    assert trials[3].value == pytest.approx(max(t.value or -9 for t in trials))


def test_longer_trials_are_refused(storage: Path) -> None:
    error = refused(storage, length=4000)
    assert (error.kind, error.keys) == ("longer", ("max_tokens",))
    assert "before: its trials train on 8k tokens, those of this study on 4k" in str(error)


def test_where_the_length_is_searched_each_trial_has_its_own(tmp_path: Path) -> None:
    space = {"learning_rate": SPACE["learning_rate"], "max_tokens": {"choice": [2000, "8k"]}}
    ledger = Ledger(tmp_path / "before")
    header = journals.header("before")
    ledger.write("study", **{**header, "spec": {**header["spec"], "space": space}})
    config = TrainConfig(max_tokens="8k").model_dump()
    ledger.write("point", trial=0, point={"learning_rate": 1e-3, "max_tokens": "8k"}, config=config)
    journals.report(ledger, 0, 8000, 5.0)
    journals.end(ledger, 0, "completed")
    ledger.close()
    (row,) = taken(tmp_path, space={**space, "max_tokens": {"choice": [8000, 1000]}}, length=500)
    assert (row["point"]["max_tokens"], row["tokens"], row["objective"]) == (8000, 8000, 5.0)


def test_points_outside_the_present_space_are_left_out(storage: Path) -> None:
    narrow = {**SPACE, "learning_rate": {"log": [1.5e-3, 4.5e-3]}}
    assert [row["trial"] for row in taken(storage, space=narrow)] == [1, 2, 3]
    no_squentropy = {**SPACE, "loss": {"choice": ["cross_entropy", "mse"]}, "squentropy_lambda": {"log": [1e-3, 1]}}
    no_squentropy["squentropy_lambda"]["when"] = {"loss": "mse"}
    assert 1 not in [row["trial"] for row in taken(storage, space=no_squentropy)]
    unconditional = {**SPACE, "squentropy_lambda": {"log": [1e-3, 1]}}
    assert [row["trial"] for row in taken(storage, space=unconditional)] == [1]  # who alone has it
    nowhere = {**SPACE, "learning_rate": {"log": [0.5, 0.9]}}
    assert "none of its 7 trials has both a value and a point in the present space" in str(
        refused(storage, space=nowhere)
    )


def test_what_cannot_be_compared_is_refused(storage: Path) -> None:
    error = refused(storage, "befor")
    assert (error.kind, error.keys, str(error).partition("; ")[2]) == ("missing", ("befor",), "did you mean before?")
    assert str(refused(storage / "empty")).endswith("; it holds no other study")
    assert refused(storage, "s").kind == refused(storage, str(storage / "s")).kind == "itself"
    more = {**SPACE, "dropout": {"choice": [0, 0.1]}}
    error = refused(storage, space=more)
    assert (error.kind, error.keys) == ("other_space", ("dropout",))
    less = {"learning_rate": SPACE["learning_rate"], "dropout": {"choice": [0]}}
    error = refused(storage, space=less)
    assert (error.kind, error.keys) == ("other_space", ("dropout", "loss", "squentropy_lambda"))
    assert "it did not search dropout, and it searched loss, squentropy_lambda too" in str(error)
    error = refused(storage, objective="val_bits_per_byte")
    assert (error.kind, error.keys) == ("conflict", ("objective",))
    assert "its objective is val_perplexity, this study's val_bits_per_byte" in str(error)
    error = refusal(lambda: take_over(spec(storage), {**DATA, "hash": "def456"}, journals.LENGTH))
    assert error.kind == "other_data"
    assert "before: its data are others (stories, hash abc123; here stories, hash def456)" in str(error)


def test_epochs_are_counted_out(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "before")
    data = {**DATA, "tokenizers": {"char": {"train_tokens": 4000}}}
    ledger.write("study", **journals.header("before", data=data))
    journals.complete(ledger, 0, 5.0)
    config = TrainConfig(max_tokens="2 epochs").model_dump()
    ledger.write("point", trial=1, point={"learning_rate": 1e-3, "loss": "cross_entropy"}, config=config)
    ledger.write("status", trial=1, status="diverged")
    ledger.close()
    rows = take_over(spec(tmp_path), data, 8000)
    assert [row["tokens"] for row in rows] == [8000, 8000]


def test_another_base_is_said_but_for_what_is_searched_or_only_measured(storage: Path) -> None:
    base = TrainConfig(max_tokens=journals.LENGTH)
    assert other_base(spec(storage), base) == ""
    changed = base.model_copy(update={"n_layer": 12, "learning_rate": 0.5, "eval_tokens": 7, "seed": 1})
    assert plain(changed)["n_layer"] == 12
    assert other_base(spec(storage), changed) == "n_layer was 4, is 12"


def test_the_summary_says_what_the_sampler_makes_of_them(storage: Path) -> None:
    rows = [(row["status"], row["objective"]) for row in taken(storage)]
    assert summary(rows, "tpe") == "6 trials: 2 complete, 2 cut short, 2 broken"
    assert summary(rows, "gp").endswith("; gp does not learn from those cut short")
    assert summary(rows[:1], "gp") == "1 trial: 1 complete"
