"""The Ray Tune scheduler: whatever Ray tells about a trial is written to the ledger first, then acted upon.

Ray calls the scheduler before searcher and callbacks, so the journal knows a report before anyone else does.
When a worker dies and Ray starts its trial again, the trial continues from the checkpoint that the journal knows.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle
from ray.tune.experiment import Trial
from ray.tune.schedulers import TrialScheduler

from search.spec.objective import OBJECTIVES
from search.spec.study_spec import StudySpec
from search.stopping.rule import Decision, Rule
from search.study.failures import BROKE, ENOUGH, common_cause, failed_alike
from search.study.journal import FULL, INACTIVE
from search.study.ledger import Ledger
from trainer.units import plural

REFUSED = {"stop": "pruned", "pause": "paused"}  # what becomes of a trial that does not continue at a rung


class LedgerScheduler(TrialScheduler):
    """First come, first served; stops what diverges, what the stopping rule ends and what hangs. Keeps no results.

    rule: shared with the searcher, which promotes what pauses here; None where every trial runs to its end.
    """

    # Ray would otherwise hand over several results at once, and a decision would come late
    _supports_buffered_results = False

    def __init__(self, ledger: Ledger, spec: StudySpec, rule: Rule | None) -> None:
        super().__init__()
        self._ledger = ledger
        self._objective, self._timeout = OBJECTIVES[spec.objective], 60 * spec.report_timeout_minutes
        self._max_failures = spec.max_failures
        self._rule = rule
        self._running: dict[int, _Run] = {}
        # what makes it useless to begin another trial: a full disk, or a cause with which all trials so far failed
        self.hopeless = ""

    # what Ray calls

    def choose_trial_to_run(self, tune_controller: Any) -> Trial | None:
        trials = tune_controller.get_trials()
        for trial in trials:
            if trial.status == Trial.RUNNING:
                self._begin(trial)
            elif trial.status == Trial.ERROR:
                self._fail(trial)  # Ray does not tell when a reused worker could not be reset
        waiting = (trial for trial in trials if trial.status == Trial.PENDING)
        return next(waiting, None)

    def on_trial_add(self, tune_controller: Any, trial: Trial) -> None:
        lost = self._ledger.study.trials[trial.config["trial"]].workers_lost  # under this driver or another
        trial.max_failures = max(0, self._max_failures - lost)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["trial"]
        if self._over(trial):  # its worker died after the last report, and Ray began it again
            return TrialScheduler.STOP
        self._begin(trial)
        self._running[number].heard = time.monotonic()
        if result.get("begun_anew"):
            self._begin_anew(number, result["begun_anew"])
        metrics = {key.removeprefix("metrics/"): value for key, value in result.items() if key.startswith("metrics/")}
        if metrics:
            self._report(number, result, metrics)
        facts = {key: result[key] for key in ("n_parameters", "node", "micro_batch") if result.get(key) is not None}
        status, value = result.get("status"), metrics.get(self._objective.name, math.nan)
        if not math.isfinite(value) and status in (None, *FULL):
            cause = f"{self._objective.name} is {value:g} after {result['tokens']:,} tokens"
            self._end(number, "diverged", cause, **facts)
            return TrialScheduler.STOP
        if status is not None:
            self._end(number, status, result.get("cause") or "", **facts)
            self.hopeless = result["cause"] if status == "interrupted" else self.hopeless
            return TrialScheduler.CONTINUE  # the trainable is about to return
        if self._rule is None or result.get("rung") is None:
            return TrialScheduler.CONTINUE
        action = decide(self._ledger, self._rule, number, result["rung"], self._objective.rank(value))
        if action not in REFUSED:
            return TrialScheduler.CONTINUE
        self._end(number, REFUSED[action], rung=result["rung"], **facts)
        return TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        # Ray calls this twice over: for a trial that it starts again (already marked as ERROR), and for a lost one
        if trial.status != Trial.ERROR:
            self._fail(trial)
            return
        number = trial.config["trial"]
        if not self._over(trial):
            self._end(number, "interrupted", "its worker was lost; it begins again", worker_lost=True)
        trial.set_config({**trial.config, "resume": self._ledger.study.trials[number].checkpoint})

    def on_trial_complete(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> None:
        if not self._over(trial):
            self._end(trial.config["trial"], "failed", "it returned without saying how it ended")

    def on_trial_remove(self, tune_controller: Any, trial: Trial) -> None:
        if not self._over(trial):
            self._end(trial.config["trial"], "interrupted", "taken from the queue")

    def debug_string(self) -> str:
        return "first come, first served" + ("" if self._rule is None else f", {type(self._rule).__name__}")

    # what the driver calls

    @property
    def idle(self) -> bool:
        """Whether no trial is training."""
        return not self._running

    def interrupt(self, cause: str) -> None:
        """The driver goes away: whatever runs will be continued by the next one."""
        for number in list(self._running):
            self._end(number, "interrupted", cause)

    def end_silent(self) -> None:
        """End the trials that have reported nothing for too long, with their worker: nothing else would free it."""
        now = time.monotonic()
        for number, run in list(self._running.items()):
            if now - run.heard < self._timeout:
                continue
            minutes = plural(self._timeout / 60, "minute")
            self._end(number, "failed", f"no report for {minutes}: it hangs, or report_timeout_minutes is too short")
            run.trial.max_failures = 0  # Ray is not to begin it again
            if run.trial.temporary_state.ray_actor is not None:
                ray.kill(run.trial.temporary_state.ray_actor)

    # how it is written down

    def _begin(self, trial: Trial) -> None:
        number, study_trial = trial.config["trial"], self._ledger.study.trials[trial.config["trial"]]
        if number in self._running or self._over(trial):
            return
        now = time.monotonic()
        self._running[number] = _Run(trial, begun=now - study_trial.seconds, heard=now)
        start = study_trial.tokens_at(trial.config.get("resume"))
        self._ledger.write(
            "status", trial=number, status="running", tokens=start, seconds=round(study_trial.seconds, 3)
        )

    def _report(self, number: int, result: dict[str, Any], metrics: dict[str, float]) -> None:
        trial, seconds = self._ledger.study.trials[number], self._seconds(number)
        if result["tokens"] == trial.tokens:
            return  # the loop hands out again the report that its checkpoint was written with
        if result["tokens"] < trial.tokens:
            self._begin_anew(number, "begins anew, as its checkpoint was gone")
        fields = {key: result.get(key) for key in ("step", "tokens", "rung", "final", "checkpoint", "micro_batch")}
        self._ledger.write("report", trial=number, **fields, seconds=seconds, metrics=metrics)

    def _begin_anew(self, number: int, cause: str) -> None:
        seconds = self._seconds(number)
        self._ledger.write("status", trial=number, status="running", tokens=0, seconds=seconds, cause=cause)

    def _end(self, number: int, status: str, cause: str = "", **fields: Any) -> None:
        seconds = self._seconds(number)
        self._running.pop(number, None)
        self._ledger.write("status", trial=number, status=status, cause=cause, seconds=seconds, **fields)
        if status in BROKE and len(failed_alike(self._ledger.study)) >= ENOUGH:
            self.hopeless = common_cause(self._ledger.study)

    def _fail(self, trial: Trial) -> None:
        if not self._over(trial):
            status, cause = _why(trial)
            self._end(trial.config["trial"], status, cause)

    def _over(self, trial: Trial) -> bool:
        """Whether Ray speaks of a trial that has ended or paused; one promoted since is another of Ray's trials."""
        number = trial.config["trial"]
        run = self._running.get(number)
        if run is not None:
            return run.trial is not trial
        return self._ledger.study.trials[number].status in INACTIVE

    def _seconds(self, number: int) -> float:
        run = self._running.get(number)
        return round(self._ledger.study.trials[number].seconds if run is None else time.monotonic() - run.begun, 3)


@dataclass
class _Run:
    """A trial that trains. begun: monotonic second at which it would have begun without a pause; heard: of its last
    word."""

    trial: Trial
    begun: float
    heard: float


def decide(ledger: Ledger, rule: Rule, number: int, rung: int, value: float) -> str:
    """The rule's decision on a trial at a rung, written the first time: `continue`, `stop`, `pause`, or `promote`."""
    trial = ledger.study.trials[number]
    decision = rule.report(number, rung, value, trial.bracket, trial.exempt, trial.group, trial.cohort)
    if all(record["rung"] != rung for record in trial.decisions):
        write_decision(ledger, number, rung, decision)
    return decision.action


def write_decision(ledger: Ledger, number: int, rung: int, decision: Decision) -> None:
    ledger.write("decision", trial=number, rung=rung, **asdict(decision))


def settle(ledger: Ledger, spec: StudySpec, rule: Rule | None) -> None:
    """Write what a driver that was killed had no time to write: a decision on a report, a status after either.

    Called before a study continues: otherwise a trial that was to be stopped would run to its end.
    """
    for number in ledger.study.unfinished():
        trial = ledger.study.trials[number]
        last = trial.reports[-1] if trial.reports else None
        if last is None:
            continue
        value = last["metrics"].get(spec.objective, math.nan)
        if not math.isfinite(value):
            ledger.write("status", trial=number, status="diverged", cause=f"{spec.objective} is {value:g}")
        elif last["final"]:
            whole = trial.config["max_tokens"]
            early = isinstance(whole, int) and last["tokens"] < whole
            ledger.write("status", trial=number, status="early_stopped" if early else "completed")
        elif rule and last["rung"] is not None:
            action = decide(ledger, rule, number, last["rung"], OBJECTIVES[spec.objective].rank(value))
            if action in REFUSED:
                ledger.write("status", trial=number, status=REFUSED[action], rung=last["rung"])


def _why(trial: Trial) -> tuple[str, str]:
    """Status and one line for a trial that Ray gave up."""
    error = None
    # Ray's own get_pickled_error looks where the file arrives only at the end of the experiment
    if trial.pickled_error_file and Path(trial.pickled_error_file).exists():
        error = cloudpickle.loads(Path(trial.pickled_error_file).read_bytes())
    cause = getattr(error, "cause", None) or error
    if cause is None:
        return "failed", "Ray could not run it; its log says why"
    first = next((line.strip() for line in str(cause).splitlines() if line.strip()), "")
    kind = type(cause).__name__
    return "out_of_memory" if "OutOfMemory" in kind else "failed", f"{kind}: {first}"
