"""The scheduler between Ray and the ledger: what is written, in which order, and what Ray is told to do."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle, tune
from ray.exceptions import ActorDiedError, RayTaskError
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search.run.resources import Share
from search.run.scheduler import LedgerScheduler, settle, write_decision
from search.run.searcher import LedgerSearcher
from search.run.watch import Stopped, Watch
from search.spec.study_spec import StudySpec
from search.strategy.stopping import rebuild
from search.study.journal import read_records
from search.study.ledger import Ledger
from search.study.machine import Node
from tests import journals, specs
from trainer.config import TrainConfig

GO, STOP = TrialScheduler.CONTINUE, TrialScheduler.STOP
SPACE = {"learning_rate": {"choice": [0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008]}}


@dataclass
class Controller:
    """What Ray's controller shows to a scheduler."""

    trials: list[Trial]

    def get_trials(self) -> list[Trial]:
        return self.trials


def study_spec(factor: int | None = 2, mode: str = "stop", **more: Any) -> StudySpec:
    asha = {"asha": {"first_rung": 1000, "factor": factor, "mode": mode}} if factor else "none"
    return StudySpec.model_validate({**specs.space(**SPACE).model_dump(), "scheduler": asha, **more})


def scheduler_of(ledger: Ledger, spec: StudySpec | None = None) -> LedgerScheduler:
    spec = spec or study_spec()
    return LedgerScheduler(ledger, spec, rebuild(spec, ledger.study))


def fresh(folder: Path, n: int = 0) -> Ledger:
    """A ledger with n trials that have a point."""
    ledger = Ledger(folder)
    ledger.write("study", **journals.header())
    for number in range(n):
        journals.point(ledger, number, learning_rate=1e-3 * (number + 1))
    return ledger


def ray_trial(number: int, **config: Any) -> Trial:
    trial = Trial("t", config={"trial": number, "resume": None, **config}, stub=True, _setup_default_resource=False)
    trial.set_status(Trial.RUNNING)
    return trial


def result(tokens: int, perplexity: float | None = None, rung: int | None = None, **more: Any) -> dict[str, Any]:
    """A result as Ray hands it on: flat."""
    plain = {"step": tokens // 100, "tokens": tokens, "rung": rung, "final": False, "checkpoint": None, "status": None}
    measured = {} if perplexity is None else {"metrics/val_perplexity": perplexity, "metrics/val_loss": 1.0}
    return {**plain, "cause": "", "n_parameters": 99, "node": "n1", "training_iteration": 1, **measured, **more}


def told(ledger: Ledger, number: int = 0) -> list[tuple[Any, ...]]:
    """What the journal says about a trial, in order, in short."""
    short = []
    for record in read_records(ledger.journal.path):
        if record.get("trial") != number or record["record"] == "point":
            continue
        kind = record["record"]
        if kind == "status":
            short.append((record["status"], *((record["tokens"],) if record["status"] == "running" else ())))
        else:
            short.append((kind, record["tokens"] if kind == "report" else record["action"]))
    return short


def test_a_report_is_written_before_the_decision_and_the_decision_before_the_status(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 2)
    scheduler = scheduler_of(ledger)
    assert scheduler.on_trial_result(None, ray_trial(0), result(1050, 5.0, rung=1000)) == GO
    assert scheduler.on_trial_result(None, ray_trial(1), result(1050, 6.0, rung=1000)) == STOP
    assert told(ledger, 0) == [("running", 0), ("report", 1050), ("decision", "continue")]
    assert told(ledger, 1) == [("running", 0), ("report", 1050), ("decision", "stop"), ("pruned",)]
    trial = ledger.study.trials[1]
    assert (trial.rung, trial.n_parameters, trial.decisions[0]["cutoff"], trial.decisions[0]["of"]) == (
        1000,
        99,
        5.0,
        2,
    )
    assert trial.reports[0]["metrics"] == {"val_perplexity": 6.0, "val_loss": 1.0}


def test_nothing_is_decided_off_the_rungs_or_at_the_end_or_without_asha(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 3)
    scheduler = scheduler_of(ledger)
    scheduler.on_trial_result(None, ray_trial(0), result(1000, 1.0, rung=1000))
    other = ray_trial(1)
    assert scheduler.on_trial_result(None, other, result(900, 9.0)) == GO
    end = result(1000, 9.0, rung=1000, final=True, status="completed")
    assert scheduler.on_trial_result(None, other, end) == GO
    assert ledger.study.trials[1].status == "completed"
    plain = scheduler_of(ledger, study_spec(None))
    assert plain.on_trial_result(None, ray_trial(2), result(1000, 9.0, rung=1000)) == GO
    assert ledger.study.trials[1].decisions == ledger.study.trials[2].decisions == []


@pytest.mark.parametrize("value", [math.nan, math.inf, None])
@pytest.mark.parametrize(("rung", "status"), [(1000, None), (None, None), (None, "completed")])
def test_a_trial_whose_objective_is_no_number_has_diverged(
    tmp_path: Path, value: float | None, rung: int | None, status: str | None
) -> None:
    ledger = fresh(tmp_path, 2)
    scheduler = scheduler_of(ledger)
    broken = result(1000, value, rung, status=status, **{"metrics/train_loss": 1.0})
    assert scheduler.on_trial_result(None, ray_trial(0), broken) == STOP
    trial = ledger.study.trials[0]
    assert trial.status == "diverged"
    assert trial.cause.startswith("val_perplexity is ")
    assert len(trial.reports) == 1
    assert scheduler.on_trial_result(None, ray_trial(1), result(1000, 9.0, rung=1000)) == GO
    assert ledger.study.trials[1].decisions[0]["of"] == 1  # nan is in no rung


@pytest.mark.parametrize("status", ["completed", "early_stopped", "diverged", "failed", "out_of_memory"])
def test_how_the_trainable_says_it_ended_is_how_it_is_written(tmp_path: Path, status: str) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    measured = 5.0 if status in ("completed", "early_stopped") else None
    last = result(8000, measured, final=measured is not None, status=status, cause="because")
    assert scheduler.on_trial_result(None, trial, last) == GO
    scheduler.on_trial_complete(None, trial, last)
    known = ledger.study.trials[0]
    assert (known.status, known.cause, known.n_parameters) == (status, "because", 99)
    assert (known.final is not None) == (measured is not None)
    assert len(told(ledger)) == (3 if measured else 2)


def test_a_trial_that_returns_without_a_word_has_failed(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    scheduler.choose_trial_to_run(Controller([trial]))
    scheduler.on_trial_complete(None, trial, {})
    assert ledger.study.trials[0].status == "failed"


def test_trials_begin_in_their_order_and_are_written_as_running_once(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 3)
    scheduler = scheduler_of(ledger)
    trials = [ray_trial(number) for number in range(3)]
    trials[1].set_status(Trial.PENDING)
    trials[2].set_status(Trial.PENDING)
    controller = Controller(trials)
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    assert scheduler.choose_trial_to_run(controller) is trials[1]
    assert [told(ledger, number) for number in range(3)] == [[("running", 0)], [], []]
    trials[1].set_status(Trial.RUNNING)
    trials[2].set_status(Trial.RUNNING)
    assert scheduler.choose_trial_to_run(controller) is None
    assert told(ledger, 2) == [("running", 0)]


def test_a_trial_that_ray_begins_again_goes_on_from_the_checkpoint_in_the_journal(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    scheduler.on_trial_result(None, trial, result(1000, 5.0, rung=1000, checkpoint="c1"))
    scheduler.on_trial_result(None, trial, result(2000, 4.0, checkpoint="c2"))
    scheduler.on_trial_result(None, trial, result(3000, 4.0))
    trial.set_status(Trial.ERROR)  # as Ray does before it queues a trial again
    scheduler.on_trial_error(None, trial)
    assert trial.config["resume"] == "c2"
    trial.set_status(Trial.PENDING)
    assert scheduler.choose_trial_to_run(Controller([trial])) is trial
    trial.set_status(Trial.RUNNING)
    scheduler.on_trial_result(None, trial, result(3000, 4.0))
    assert told(ledger)[-2:] == [("running", 2000), ("report", 3000)]
    known = ledger.study.trials[0]
    assert ([report["tokens"] for report in known.reports], known.repeated) == ([1000, 2000, 3000], 1000)


def test_a_trial_whose_checkpoint_was_gone_is_known_to_begin_anew(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    for tokens in (1000, 2000):
        scheduler.on_trial_result(None, trial, result(tokens, 5.0, checkpoint="c"))
    trial.set_status(Trial.ERROR)
    scheduler.on_trial_error(None, trial)
    trial.set_status(Trial.RUNNING)
    scheduler.on_trial_result(None, trial, result(1000, 5.0, checkpoint="c"))
    assert told(ledger)[-3:] == [("running", 2000), ("running", 0), ("report", 1000)]
    assert ledger.study.trials[0].repeated == 2000


def test_why_a_trial_begins_anew_is_in_the_journal_even_where_its_first_report_is_the_same(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    scheduler.on_trial_result(None, trial, result(1000, 5.0, checkpoint="c"))
    trial.set_status(Trial.ERROR)
    scheduler.on_trial_error(None, trial)
    trial.set_status(Trial.RUNNING)
    scheduler.on_trial_result(None, trial, result(1000, 5.0, checkpoint="c", begun_anew="its checkpoint is cut"))
    scheduler.on_trial_result(None, trial, result(2000, 4.0, checkpoint="c"))
    assert told(ledger)[-3:] == [("running", 0), ("report", 1000), ("report", 2000)]
    records = [record for record in read_records(ledger.journal.path) if record.get("status") == "running"]
    assert [record["cause"] for record in records if record.get("cause")] == ["its checkpoint is cut"]
    known = ledger.study.trials[0]
    assert ([report["tokens"] for report in known.reports], known.repeated) == ([1000, 2000], 1000)


def test_a_report_that_a_checkpoint_hands_out_again_is_written_once(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    for tokens in (1000, 2000):
        scheduler.on_trial_result(None, trial, result(tokens, 5.0, checkpoint="c"))
    trial.set_status(Trial.ERROR)
    scheduler.on_trial_error(None, trial)
    trial.set_status(Trial.RUNNING)
    for tokens in (2000, 3000):
        scheduler.on_trial_result(None, trial, result(tokens, 5.0, checkpoint="c"))
    assert told(ledger)[-2:] == [("running", 2000), ("report", 3000)]
    known = ledger.study.trials[0]
    assert ([report["tokens"] for report in known.reports], known.repeated) == ([1000, 2000, 3000], 0)


def test_a_rung_reached_twice_is_decided_once(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 2)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    assert scheduler.on_trial_result(None, trial, result(1000, 5.0, rung=1000)) == GO
    scheduler.on_trial_result(None, ray_trial(1), result(1000, 1.0, rung=1000))
    trial.set_status(Trial.ERROR)
    scheduler.on_trial_error(None, trial)
    trial.set_status(Trial.RUNNING)
    assert scheduler.on_trial_result(None, trial, result(1000, 5.0, rung=1000)) == GO
    assert len(ledger.study.trials[0].decisions) == 1


def test_a_trial_that_ended_and_is_begun_again_is_stopped_without_a_word(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    scheduler.on_trial_result(None, trial, result(8000, 5.0, final=True, status="completed"))
    before = told(ledger)
    assert scheduler.on_trial_result(None, trial, result(8000, 5.0, final=True, status="completed")) == STOP
    assert told(ledger) == before


class Lost(Trial):
    """A trial that Ray gave up; its error lies where Ray would put it in a session of its own."""

    error_path: Path

    @property
    def pickled_error_file(self) -> str:
        return str(self.error_path)


def lost(number: int, folder: Path, error: Exception | None) -> Trial:
    trial = Lost("t", config={"trial": number}, stub=True, _setup_default_resource=False)
    trial.set_status(Trial.RUNNING)
    trial.error_path = folder / f"{number}.pkl"
    if error is not None:
        trial.error_path.write_bytes(cloudpickle.dumps(error))
    return trial


@pytest.mark.parametrize(
    ("error", "status", "cause"),
    [
        (RayTaskError("f", "Traceback ...", ValueError("bad\nworse")), "failed", "ValueError: bad"),
        (ActorDiedError(), "failed", "ActorDiedError: The actor died unexpectedly before finishing this task."),
        (ray.exceptions.OutOfMemoryError("node is full"), "out_of_memory", "OutOfMemoryError: node is full"),
        (None, "failed", "Ray could not run it; its log says why"),
    ],
)
def test_a_trial_that_ray_gave_up_has_a_cause(tmp_path: Path, error: Exception | None, status: str, cause: str) -> None:
    ledger = fresh(tmp_path / "study", 2)
    scheduler = scheduler_of(ledger)
    scheduler.on_trial_error(None, lost(0, tmp_path, error))
    quiet = lost(1, tmp_path, error)  # a worker that could not be reset: Ray does not call on_trial_error
    quiet.set_status(Trial.ERROR)
    scheduler.choose_trial_to_run(Controller([quiet]))
    for number in (0, 1):
        known = ledger.study.trials[number]
        assert (known.status, known.cause) == (status, cause)


def test_seconds_count_over_interruptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("search.run.scheduler.time.monotonic", lambda: now)
    ledger = fresh(tmp_path, 1)
    scheduler, trial = scheduler_of(ledger), ray_trial(0)
    scheduler.on_trial_result(None, trial, result(1000, 5.0))
    now = 107.5
    scheduler.interrupt("stopped by Ctrl-C")
    known = ledger.study.trials[0]
    assert (known.status, known.cause, known.seconds) == ("interrupted", "stopped by Ctrl-C", 7.5)
    ledger.close()
    now = 3.0  # another process
    again = Ledger(tmp_path)
    scheduler = scheduler_of(again)
    scheduler.choose_trial_to_run(Controller([trial]))
    now = 5.0
    scheduler.on_trial_result(None, trial, result(8000, 5.0, final=True, status="completed"))
    assert again.study.trials[0].seconds == 9.5


def test_what_a_killed_driver_left_half_written_is_settled(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 6)
    for number in range(6):
        journals.start(ledger, number)
    journals.report(ledger, 0, 1000, 1.0, rung=1000)
    ledger.write("decision", trial=0, rung=1000, action="continue", value=1.0, cutoff=1.0, of=1)
    journals.report(ledger, 1, 1000, 5.0, rung=1000)  # no decision: it is to be stopped
    journals.report(ledger, 2, 1000, 6.0, rung=1000)
    ledger.write("decision", trial=2, rung=1000, action="stop", value=6.0, cutoff=1.0, of=2)  # no status
    journals.report(ledger, 3, journals.LENGTH, 2.0)  # its last report
    journals.report(ledger, 4, 1000, math.nan)
    settle(ledger, study_spec(), rebuild(study_spec(), ledger.study))
    trials = ledger.study.trials
    expected = ["running", "pruned", "pruned", "completed", "diverged", "running"]
    assert [trials[number].status for number in range(6)] == expected
    assert ledger.study.unfinished() == [0, 5]
    before = told(ledger, 1)
    settle(ledger, study_spec(), rebuild(study_spec(), ledger.study))
    assert told(ledger, 1) == before


@pytest.fixture
def ray_local(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "TUNE_DISABLE_STRICT_METRIC_CHECKING"):
        monkeypatch.setenv(name, "1")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    yield
    ray.shutdown()


@pytest.mark.slow
def test_ray_tune_runs_a_study_of_every_kind_of_trial(tmp_path: Path, ray_local: None) -> None:
    """0 completes, 1 diverges, 2 is the best and loses its worker once, 3 loses it each time, 4 is pruned."""

    def trial(config: dict[str, Any]) -> None:
        number = config["trial"]
        for tokens in (1000, 2000, 3000, 8000):
            if config["resume"] is not None and tokens <= int(config["resume"]):
                continue
            if number == 3 or (number == 2 and tokens == 3000 and config["resume"] is None):
                os._exit(1)
            message = {"step": tokens, "tokens": tokens, "rung": tokens if tokens in config["rungs"] else None}
            message |= {"final": tokens == 8000, "status": "completed" if tokens == 8000 else None, "cause": ""}
            perplexity = math.nan if number == 1 and tokens == 1000 else [5.0, 4.0, 1.0, 2.0, 9.0][number]
            message |= {"metrics": {"val_perplexity": perplexity}, "checkpoint": str(tokens)}
            tune.report({**message, "n_parameters": 7, "node": "here"})

    spec = study_spec(2, sampler="grid", budget={"trials": 5}, max_failures=1)
    ledger = fresh(tmp_path / "study")
    asha = rebuild(spec, ledger.study)
    searcher = LedgerSearcher(
        ledger, spec, TrainConfig(max_tokens=8000), asha, lambda c: 8000, lambda n: tmp_path / str(n)
    )
    tune.run(
        trial,
        search_alg=searcher,
        scheduler=LedgerScheduler(ledger, spec, asha),
        num_samples=-1,
        max_concurrent_trials=2,
        reuse_actors=True,
        max_failures=1,
        raise_on_failed_trial=False,
        storage_path=str(tmp_path / "ray"),
        trial_dirname_creator=lambda trial: str(trial.config["trial"]),
        verbose=0,
    )
    trials = ledger.study.trials
    assert [trials[n].status for n in range(5)] == ["completed", "diverged", "completed", "failed", "pruned"]
    assert len({trial.point["learning_rate"] for trial in trials.values()}) == 5
    assert told(ledger, 1) == [("running", 0), ("report", 1000), ("diverged",)]
    going = [("decision", "continue"), ("report", 2000), ("decision", "continue")]
    whole = [("report", 3000), ("report", 8000), ("completed",)]
    assert told(ledger, 2) == [("running", 0), ("report", 1000), *going, ("interrupted",), ("running", 2000), *whole]
    assert told(ledger, 3) == [("running", 0), ("interrupted",), ("running", 0), ("failed",)]
    assert "ActorDiedError" in trials[3].cause
    assert told(ledger, 4) == [("running", 0), ("report", 1000), ("decision", "stop"), ("pruned",)]
    assert all(trial.seconds > 0 for trial in trials.values())


# trials that pause, hang, or lose their worker again and again


def test_who_pauses_at_a_rung_is_not_over_and_comes_again_as_another_of_rays_trials(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    spec = study_spec(mode="promote")
    asha = rebuild(spec, ledger.study)
    assert asha is not None
    scheduler, first, second = LedgerScheduler(ledger, spec, asha), ray_trial(0), ray_trial(0)
    assert scheduler.on_trial_result(None, first, result(1000, 5.0, rung=1000, checkpoint="c")) == STOP
    assert ledger.study.trials[0].status == "paused"
    scheduler.on_trial_remove(None, first)
    assert ledger.study.unfinished() == []
    write_decision(ledger, 0, 1000, asha.promote(0, 1000))
    assert ledger.study.unfinished() == [0]
    second.set_config({**second.config, "resume": "c"})
    assert scheduler.on_trial_result(None, second, result(1000, 5.0, rung=1000, checkpoint="c")) == GO
    scheduler.on_trial_complete(None, first, {})  # late words about the first are about nobody
    assert scheduler.on_trial_result(None, first, result(2000, 5.0)) == STOP
    scheduler.on_trial_result(None, second, result(8000, 4.0, final=True, status="completed"))
    going = [("report", 1000), ("decision", "pause"), ("paused",), ("decision", "promote"), ("running", 1000)]
    assert told(ledger) == [("running", 0), *going, ("report", 8000), ("completed",)]


def test_a_trial_without_a_report_for_too_long_is_ended_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("search.run.scheduler.time.monotonic", lambda: now[0])
    ledger = fresh(tmp_path, 2)
    scheduler, hangs, works = scheduler_of(ledger, study_spec(report_timeout_minutes=10)), ray_trial(0), ray_trial(1)
    for trial in (hangs, works):
        scheduler.on_trial_result(None, trial, result(500, 5.0))
    now[0] += 400
    scheduler.on_trial_result(None, works, result(600, 5.0))
    now[0] += 250
    scheduler.end_silent()
    assert [ledger.study.trials[n].status for n in (0, 1)] == ["failed", "running"]
    assert ledger.study.trials[0].cause.startswith("no report for 10 minutes")
    assert hangs.max_failures == 0  # its worker is killed next, and Ray is not to begin it again


def test_lost_workers_count_over_all_drivers(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    for lost in range(3):
        scheduler, trial = scheduler_of(ledger, study_spec(max_failures=2)), ray_trial(0)
        scheduler.on_trial_add(None, trial)
        assert trial.max_failures == 2 - lost
        scheduler.on_trial_result(None, trial, result(500 + lost, 5.0))
        trial.set_status(Trial.ERROR)
        scheduler.on_trial_error(None, trial)
    assert ledger.study.trials[0].workers_lost == 3


def test_a_trial_that_finds_the_disk_full_is_kept_and_stops_the_study(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, 1)
    scheduler = scheduler_of(ledger)
    scheduler.on_trial_result(None, ray_trial(0), result(0, status="interrupted", cause="no space left on device"))
    assert ledger.study.unfinished() == [0]
    asked: list[str] = []
    with pytest.raises(Stopped):
        Watch(scheduler, Share(1, 0, 1), asked, lambda: [Node("n", 1, 0)], lambda each: "", print).stop_all()
    assert asked == ["no space left on device"]


@pytest.mark.parametrize("reported", [False, True])
def test_the_third_trial_that_fails_as_all_before_it_stops_the_study_unless_one_has_reported(
    tmp_path: Path, reported: bool
) -> None:
    ledger = fresh(tmp_path, 4)
    scheduler, trials = scheduler_of(ledger), [ray_trial(number) for number in range(4)]
    scheduler.choose_trial_to_run(Controller(trials))
    if reported:
        scheduler.on_trial_result(None, trials[3], result(500, 5.0))
    watching = Watch(scheduler, Share(1, 0, 4), asked := [], lambda: [], lambda each: "", print)
    for trial in trials[:3]:
        assert watching.stop_all() is False
        scheduler.on_trial_result(None, trial, result(0, status="failed", cause="no such directory"))
    if reported:
        assert watching.stop_all() is False
        return
    with pytest.raises(Stopped):
        watching.stop_all()
    assert "no such directory" in asked[0]
    scheduler.interrupt(asked[0])
    assert [trial.status for trial in ledger.study.trials.values()] == ["failed"] * 3 + ["interrupted"]
