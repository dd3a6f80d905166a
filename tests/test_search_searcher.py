"""The searcher between Ray and the sampler: what is handed out, in which order, and when it is enough."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher
from ray.tune.search.search_generator import SearchGenerator

from search.run.live import time_left
from search.run.scheduler import decide
from search.run.searcher import LedgerSearcher
from search.spec.study_spec import Budget, StudySpec
from search.strategy.stopping import rebuild
from search.study import journal
from search.study.journal import read_records
from search.study.ledger import Ledger
from tests import journals
from trainer.config import TrainConfig

SPACE = {
    "learning_rate": {"log": [1e-4, 1e-2]},
    "loss": {"choice": ["cross_entropy", "squentropy"]},
    "squentropy_lambda": {"log": [1e-3, 1], "when": {"loss": "squentropy"}},
}
BASE = TrainConfig(max_tokens="2 epochs")


def study_spec(**more: Any) -> StudySpec:
    head = {"study": "s", "base": "b", "budget": {"trials": 4}, "sampler": "random", "space": SPACE}
    return StudySpec.model_validate({**head, "scheduler": {"asha": {"first_rung": 1000, "factor": 4}}, **more})


def searcher(ledger: Ledger, **more: Any) -> LedgerSearcher:
    spec = study_spec(**more)
    asha = rebuild(spec, ledger.study)
    return LedgerSearcher(ledger, spec, BASE, asha, lambda c: c.length(4000), lambda n: Path("/out") / str(n))


def fresh(folder: Path) -> Ledger:
    ledger = Ledger(folder)
    ledger.write("study", **journals.header())
    return ledger


def test_a_point_is_on_disk_before_its_trial_is_handed_out(tmp_path: Path) -> None:
    ledger = fresh(tmp_path)
    job = searcher(ledger).suggest("a")
    assert isinstance(job, dict)
    *_, record = read_records(ledger.journal.path)
    assert (record["record"], record["trial"], record["sampler"]) == ("point", 0, "random")
    assert record["name"].startswith("lr=")
    assert record["config"] == job["config"]
    config = TrainConfig.model_validate(job["config"])
    assert config.learning_rate == record["point"]["learning_rate"]
    assert {key: value for key, value in job.items() if key != "config"} == {
        "trial": 0,
        "resume": None,
        "out_dir": "/out/0",
        "rungs": [1000, 4000],
        "objective": "val_perplexity",
        "micro_batch": None,
    }
    json.dumps(job)


def test_numbers_go_up_and_the_budget_ends_it(tmp_path: Path) -> None:
    ledger = fresh(tmp_path)
    hands = searcher(ledger)
    jobs = [hands.suggest(str(n)) for n in range(4)]
    assert [job["trial"] for job in jobs if isinstance(job, dict)] == [0, 1, 2, 3]
    assert hands.suggest("z") == Searcher.FINISHED
    assert len(ledger.study.trials) == 4


def test_a_grid_ends_when_it_is_exhausted(tmp_path: Path) -> None:
    hands = searcher(fresh(tmp_path), sampler="grid", space={"n_layer": {"choice": [1, 2]}}, budget={"trials": 9})
    assert isinstance(hands.suggest("a"), dict)
    assert isinstance(hands.suggest("b"), dict)
    assert hands.suggest("c") == Searcher.FINISHED


def test_the_next_driver_hands_out_what_was_interrupted_first_even_on_a_spent_budget(tmp_path: Path) -> None:
    journals.write_study(tmp_path).close()  # 5 was interrupted, 6 never began
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    before = len(list(read_records(ledger.journal.path)))
    hands = searcher(ledger, budget={"trials": 7})
    jobs = [hands.suggest("a"), hands.suggest("b")]
    assert [job["trial"] for job in jobs if isinstance(job, dict)] == [5, 6]
    assert hands.suggest("c") == Searcher.FINISHED
    assert len(list(read_records(ledger.journal.path))) == before  # their points stand already
    assert [job["config"] for job in jobs if isinstance(job, dict)] == [ledger.study.trials[n].config for n in (5, 6)]


def test_a_raised_budget_extends_the_study_as_if_it_had_been_so_from_the_start(tmp_path: Path) -> None:
    def points(folder: Path, *budgets: int) -> list[dict[str, Any]]:
        for budget in budgets:
            ledger = fresh(folder)
            hands = searcher(ledger, budget={"trials": budget})
            while isinstance(job := hands.suggest("x"), dict):
                ledger.write("status", trial=job["trial"], status="failed", cause="")
            ledger.close()
        return [trial.point for trial in ledger.study.trials.values()]

    assert points(tmp_path / "a", 2, 5) == points(tmp_path / "b", 5)


def test_an_interrupted_trial_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    ledger = fresh(tmp_path)
    journals.point(ledger, 0)
    journals.start(ledger, 0)
    fields = {"step": 1, "tokens": 1000, "rung": 1000, "final": False, "metrics": journals.metrics(5.0)}
    ledger.write("report", trial=0, **fields, checkpoint="/out/0/checkpoint.pt")
    job = searcher(ledger).suggest("a")
    assert isinstance(job, dict)
    assert (job["trial"], job["resume"]) == (0, "/out/0/checkpoint.pt")


@pytest.mark.parametrize(("budget", "ends"), [({"tokens": "25k"}, True), ({"tokens": "50k"}, False)])
def test_tokens_of_earlier_drivers_count(tmp_path: Path, budget: dict[str, Any], ends: bool) -> None:
    journals.write_study(tmp_path).close()
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    for number in (5, 6):
        journals.end(ledger, number, "failed")
    ledger.write("report", trial=6, step=1, tokens=4000, rung=None, final=False, metrics={}, checkpoint=None)
    assert ledger.study.tokens == 26_000
    assert (searcher(ledger, budget=budget).suggest("a") == Searcher.FINISHED) == ends


def test_hours_count_while_the_driver_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hands = searcher(fresh(tmp_path), budget={"hours": 1})
    assert isinstance(hands.suggest("a"), dict)
    now = journal.now()
    monkeypatch.setattr("search.study.journal.now", lambda: now + 3601)
    assert hands.suggest("b") == Searcher.FINISHED


@pytest.mark.parametrize("jump", [86_400, -86_400])
def test_a_clock_that_is_set_neither_uses_up_nor_stretches_a_budget_of_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jump: int
) -> None:
    ledger, set_at = fresh(tmp_path), time.time()
    hands = searcher(ledger, budget={"hours": 1})
    monkeypatch.setattr("time.time", lambda: set_at + jump)
    job = hands.suggest("a")
    assert isinstance(job, dict)
    journals.end(ledger, job["trial"], "completed")
    assert 0 <= ledger.study.seconds(journal.now()) < 60
    assert time_left(ledger.study, Budget(hours=1), 1000, 0, 0) == pytest.approx(3600, abs=60)
    counted = journal.now()
    monkeypatch.setattr("search.study.journal.now", lambda: counted + 3601)
    assert hands.suggest("b") == Searcher.FINISHED


def test_epochs_are_counted_out_for_each_config(tmp_path: Path) -> None:
    space = {"max_tokens": {"choice": ["1 epoch", "9 epochs"]}}
    hands = searcher(fresh(tmp_path), sampler="grid", space=space)
    jobs = [hands.suggest("a"), hands.suggest("b")]
    rungs = {job["config"]["max_tokens"]: job["rungs"] for job in jobs if isinstance(job, dict)}
    assert rungs == {"1 epochs": [1000], "9 epochs": [1000, 4000, 16000]}


def test_promotions_come_before_new_points_and_the_end_waits_for_those_that_run(tmp_path: Path) -> None:
    ledger = fresh(tmp_path)
    spec = study_spec(scheduler={"asha": {"first_rung": 1000, "factor": 2, "mode": "promote", "exempt": 0}})
    asha = rebuild(spec, ledger.study)
    assert asha is not None
    asked = LedgerSearcher(ledger, spec, BASE, asha, lambda c: 4000, lambda n: Path("/out") / str(n))

    def arrives(number: int, value: float) -> None:
        journals.start(ledger, number)
        journals.report(ledger, number, 1000, value, rung=1000)
        assert decide(ledger, asha, number, 1000, value) == "pause"
        ledger.write("status", trial=number, status="paused", rung=1000)

    def suggests() -> Any:
        job = asked.suggest("x")
        return job["trial"] if isinstance(job, dict) else job

    assert [suggests(), suggests()] == [0, 1]
    arrives(0, 5.0)
    assert suggests() == 2
    arrives(1, 6.0)
    assert suggests() == 0  # one of two
    assert ledger.study.trials[0].decisions[-1]["action"] == "promote"
    assert suggests() == 3
    assert suggests() is None  # the budget has no more points, but 2 and 3 are on their way
    for number in (0, 2, 3):
        journals.end(ledger, number, "diverged")
    assert suggests() == Searcher.FINISHED  # somebody continued from the rung
    assert ledger.study.trials[1].status == "paused"


def test_a_study_of_pausing_trials_always_brings_one_to_its_end(tmp_path: Path) -> None:
    ledger = fresh(tmp_path)
    spec = study_spec(budget={"trials": 1}, scheduler={"asha": {"first_rung": 1000, "mode": "promote", "exempt": 0}})
    asha = rebuild(spec, ledger.study)
    assert asha is not None
    asked = LedgerSearcher(ledger, spec, BASE, asha, lambda c: 4000, lambda n: Path("/out") / str(n))
    asked.suggest("a")
    journals.report(ledger, 0, 1000, 5.0, rung=1000)
    decide(ledger, asha, 0, 1000, 5.0)
    ledger.write("status", trial=0, status="paused", rung=1000)
    job = asked.suggest("b")
    assert isinstance(job, dict)
    assert job["trial"] == 0


def test_what_fits_a_shape_is_handed_out_with_the_next_trial_of_that_shape(tmp_path: Path) -> None:
    ledger = fresh(tmp_path)
    space = {"n_layer": {"choice": [2, 4]}, "learning_rate": {"log": [1e-4, 1]}}
    asked = searcher(ledger, space=space, budget={"trials": 16})
    jobs: list[Any] = [asked.suggest(str(n)) for n in range(8)]
    assert {job["micro_batch"] for job in jobs} == {None}
    deep = [job["trial"] for job in jobs if job["config"]["n_layer"] == 4]
    for number, size in zip(deep, (8, 4), strict=False):
        measured = {"step": 1, "tokens": 100, "rung": None, "final": False, "checkpoint": None}
        ledger.write("report", trial=number, **measured, metrics=journals.metrics(5.0), micro_batch=size)
    jobs = [asked.suggest(str(n)) for n in range(8)]
    assert len(deep) >= 2
    assert {(job["config"]["n_layer"], job["micro_batch"]) for job in jobs} == {(2, None), (4, 4)}


def test_a_trial_of_a_release_that_lacked_a_key_has_its_default_where_memory_is_concerned(tmp_path: Path) -> None:
    ledger = fresh(tmp_path)
    config = BASE.model_dump(mode="json")
    for key in ("dtype", "mlp"):
        del config[key]
    ledger.write("point", trial=0, point={"learning_rate": 1e-3}, config=config, name="old")
    measured = {"step": 1, "tokens": 100, "rung": None, "final": False, "checkpoint": None}
    ledger.write("report", trial=0, **measured, metrics=journals.metrics(5.0), micro_batch=2)
    ledger.write("status", trial=0, status="completed")
    job = searcher(ledger, space={"learning_rate": {"log": [1e-4, 1]}}).suggest("a")
    assert isinstance(job, dict)
    assert (job["trial"], job["micro_batch"]) == (1, 2)


def test_tune_takes_it_and_its_snapshots_are_empty(tmp_path: Path) -> None:
    generator = SearchGenerator(searcher(fresh(tmp_path / "study")))
    generator.set_search_properties(None, None, {})
    (tmp_path / "snapshot").mkdir()
    generator.searcher.save_to_dir(str(tmp_path / "snapshot"), "now")
    generator.searcher.on_trial_complete("a", {}, error=True)
    assert list((tmp_path / "snapshot").iterdir()) == []
