"""The state of a study, reconstructed from its journal's records, and the ledger of a running study."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from data.errors import UserError
from search.spec.space import configuration
from search.spec.study_spec import Budget
from search.study.journal import ENDED, FULL, INACTIVE, NAME, Record, decode_metrics, read_records
from search.study.record_shapes import KINDS, check
from search.study.study_record import Header, read_header
from trainer.keys import RuleError
from trainer.units import count, plural

_PLACEMENT = ("of", "round", "bracket", "exempt", "group", "cohort")  # keys of a point record


@dataclass
class Stint:
    """A period in which a trial occupied a worker.

    session: index in `Study.sessions` of the driver that ran it. begin, end: seconds since the epoch; end is None while
    the trial runs, and stays None if its driver died. status: the trial's status at the end. node: the machine, if
    recorded.
    """

    session: int
    begin: float
    end: float | None = None
    status: str = "running"
    node: str | None = None


@dataclass
class Trial:
    """The state of one trial, reconstructed from its records."""

    number: int
    point: dict[str, Any]
    config: dict[str, Any]
    name: str = ""
    status: str = "waiting"
    cause: str = ""
    rung: int | None = None
    seconds: float = 0.0
    n_parameters: int | None = None
    of: int | None = None  # in a finalist's run: the trial that it repeats; round: index of the fresh seed, from 1
    round: int | None = None
    bracket: int = 0
    exempt: bool = False
    group: str = ""  # the value of the spec's `compare` parameter, as text
    cohort: int = 0  # index, with a stopping rule that compares in cohorts
    micro_batch: int | None = None  # sequences in one forward pass, where memory limits them
    workers_lost: int = 0
    repeated: int = 0  # tokens trained twice because a worker or driver was lost
    reports: list[Record] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)
    stints: list[Stint] = field(default_factory=list)
    test: dict[str, float] | None = None  # metrics on the test split, after `nanosweep finalize`

    @cached_property
    def configuration(self) -> str:
        """See `search.spec.space.configuration`; of a record without a config its point."""
        return configuration(self.config) if self.config else json.dumps(self.point, sort_keys=True)

    @property
    def tokens(self) -> int:
        return max((report["tokens"] for report in self.reports), default=0)

    @property
    def checkpoint(self) -> str | None:
        """The path of the newest checkpoint."""
        return next((r["checkpoint"] for r in reversed(self.reports) if r.get("checkpoint")), None)

    def tokens_at(self, checkpoint: str | None) -> int:
        """Tokens trained on when a checkpoint was written; 0 without one."""
        token_counts = (r["tokens"] for r in reversed(self.reports) if checkpoint and r.get("checkpoint") == checkpoint)
        return next(token_counts, 0)  # the newest report: a trial overwrites its file

    @property
    def final(self) -> Record | None:
        """The last report of a trial that trained to full length; None otherwise."""
        return next((r for r in reversed(self.reports) if r.get("final")), None) if self.status in FULL else None


@dataclass(frozen=True)
class EarlierTrial:
    """A trial taken over from an earlier study (`warm_start`). tokens: its length; scores: objective by tokens; config:
    whole, of the earlier study."""

    study: str
    number: int
    point: dict[str, Any]
    status: str
    tokens: int
    scores: dict[int, float]
    objective: float | None
    config: dict[str, Any] | None = None  # not in the journals of older releases


@dataclass
class Study:
    """The state that a journal describes: the last study record, an earlier study's trials, all trials by number."""

    header: Header = field(default_factory=Header)
    earlier_trials: list[EarlierTrial] = field(default_factory=list)
    trials: dict[int, Trial] = field(default_factory=dict)
    sessions: list[tuple[float, float]] = field(
        default_factory=list
    )  # of each driver: times of its first and last record
    workers: list[dict[str, float]] = field(default_factory=list)  # of each driver: slots; cpus and gpus of one of them
    folder: Path | None = field(default=None, compare=False, repr=False)  # the study's folder, with its trials' files
    stopped: str = field(default="", compare=False)  # why its user stopped the driver that has just run; not recorded

    @property
    def started(self) -> bool:
        """Whether the journal has a study record."""
        return bool(self.header.record)

    @property
    def searched(self) -> list[Trial]:
        """The trials of the search by number, without the finalists' runs."""
        return [self.trials[number] for number in sorted(self.trials) if self.trials[number].of is None]

    def again(self, number: int) -> list[Trial]:
        """The runs of a finalist with fresh seeds, in order of their rounds."""
        return sorted((t for t in self.trials.values() if t.of == number), key=lambda trial: trial.round or 0)

    @property
    def tokens(self) -> int:
        """Tokens trained on by all trials of the search, repeated ones included."""
        return sum(trial.tokens + trial.repeated for trial in self.searched)

    def seconds(self, now: float | None = None) -> float:
        """Wall seconds of all drivers together. now: seconds since the epoch, while a driver runs."""
        spent = sum(last - first for first, last in self.sessions)
        return spent if now is None or not self.sessions else spent + max(0.0, now - self.sessions[-1][1])

    def unfinished(self) -> list[int]:
        """Numbers of the trials that are neither ended nor paused: the next driver resumes them first."""
        return [trial.number for trial in self.trials.values() if trial.status not in INACTIVE]

    def apply(self, record: Record) -> None:
        """Update the state with one record. Raises ValueError for a record of a trial that has no point record."""
        kind, at = record["record"], record["time"]
        if kind not in KINDS:
            return  # of a later release
        if kind == "study":
            self.header = read_header(record)
            self.sessions.append((at, at))
            self.workers.append(dict(self.header.workers))
            return
        if self.sessions and kind != "test":  # written by `finalize`, not by a driver
            self.sessions[-1] = (self.sessions[-1][0], max(at, self.sessions[-1][1]))
        if kind == "prior":
            self.earlier_trials += [_earlier(taken) for taken in record["trials"]]
            return
        number = record["trial"]
        if kind == "point":
            placement = {key: record[key] for key in _PLACEMENT if key in record}
            name = record.get("name", str(number))
            self.trials[number] = Trial(number, record["point"], record["config"], name, **placement)
            return
        if number not in self.trials:
            raise ValueError(f"a {kind} record of trial {number}, which has no point")
        trial = self.trials[number]
        trial.micro_batch = record.get("micro_batch") or trial.micro_batch
        if kind == "report":
            trial.reports.append({**record, "metrics": decode_metrics(record["metrics"])})
            trial.seconds = record.get("seconds") or trial.seconds
        elif kind == "test":
            trial.test = decode_metrics(record["metrics"])
        elif kind == "decision":
            trial.decisions.append(record)
            if record["action"] == "promote":
                trial.status = "waiting"  # a driver has to resume it
        elif kind == "status":
            _apply_status(trial, record)
            _apply_stint(trial, record, len(self.sessions) - 1)


def _earlier(record: Record) -> EarlierTrial:
    scores = {int(tokens): value for tokens, value in decode_metrics(record["scores"]).items()}
    facts = {key: record[key] for key in ("study", "point", "status", "tokens", "objective")}
    return EarlierTrial(number=record["trial"], scores=scores, config=record.get("config"), **facts)


def _apply_status(trial: Trial, record: Record) -> None:
    if trial.status in ENDED:  # it failed, and begins again
        trial.workers_lost = 0
    trial.status = record["status"]
    trial.cause = record.get("cause") or ""
    trial.rung = record.get("rung")
    trial.seconds = record.get("seconds") or trial.seconds
    trial.workers_lost += bool(record.get("worker_lost"))
    trial.n_parameters = record.get("n_parameters") or trial.n_parameters
    if trial.status == "running":
        # it resumes from a checkpoint: tokens after that are trained twice and reported again
        start = record.get("tokens", 0)
        trial.repeated += max(0, trial.tokens - start)
        trial.reports = [report for report in trial.reports if report["tokens"] <= start]


def _apply_stint(trial: Trial, record: Record, session: int) -> None:
    last = trial.stints[-1] if trial.stints else None
    going = last is not None and last.end is None and last.session == session
    if record["status"] == "running" and not going:  # going: it restarted on the same worker
        trial.stints.append(Stint(session, record["time"]))
    elif record["status"] != "running" and last is not None and last.end is None:
        last.status = record["status"]
        if going:  # otherwise the next driver wrote this record, long after the end
            last.end, last.node = record["time"], record.get("node")


def spent(study: Study, budget: Budget, now: float | None = None) -> str:
    """The part of the budget that is used up, as text (`64 of 64 trials`), or the empty string.

    After that no new trial starts; running trials train to their end.
    """
    if budget.trials is not None and len(study.searched) >= budget.trials:
        return f"{len(study.searched)} of {plural(budget.trials, 'trial')}"
    return used_up(study, budget, now)


def used_up(study: Study, budget: Budget, now: float | None = None) -> str:
    """The same for tokens and hours only: once one of them is used up, paused trials are not promoted either."""
    if budget.tokens is not None and study.tokens >= budget.tokens:
        return f"{count(study.tokens)} of {count(budget.tokens)} tokens"
    if budget.hours is not None and study.seconds(now) >= budget.hours * 3600:
        return f"{study.seconds(now) / 3600:.1f} of {plural(budget.hours, 'hour')}"
    return ""


def fold(records: Iterable[Record], name: str = NAME) -> Study:
    """Reconstruct a Study from a journal's records. Raises UserError when there is no study record among them."""
    study = fold_any(_headed(records, name), name)
    if not study.started:
        raise UserError(f"{name}: is empty; was the study ever started?", kind="missing", keys="study")
    return study


def _headed(records: Iterable[Record], name: str) -> Iterator[Record]:
    """The records. Raises UserError where the first is not the study's: a file that has lost its beginning."""
    for line, record in enumerate(records, 1):
        if line == 1 and record["record"] != "study":
            problem = (
                f"{name}:1: the study record, a journal's first line, is missing; this is a {record['record']} record; "
                "restore the file from a copy"
            )
            raise UserError(problem, kind="missing", keys="study", line=1)
        yield record


def fold_any(records: Iterable[Record], name: str) -> Study:
    study = Study()
    for line, record in enumerate(records, 1):
        try:
            check(record)
            study.apply(record)
        except ValueError as error:
            keys, kind = (error.keys, error.kind) if isinstance(error, RuleError) else ((), "out_of_order")
            problem = f"{name}:{line}: {error}; restore the file from a copy"
            raise UserError(problem, kind=kind, keys=keys, line=line) from None
    return study


def read_study(folder: Path) -> Study:
    """Read the study in a folder. Raises UserError when there is none."""
    path = folder / NAME
    _check_journal(path)
    if not path.exists():
        raise UserError(f"{path}: no such study", kind="missing")
    study = fold(read_records(path), str(path))
    study.folder = folder
    return study


def read_begun(folder: Path) -> Study:
    """The same; an empty study where none was begun there. Raises UserError where a begun one has lost its journal."""
    path = folder / NAME
    _check_journal(path)
    return read_study(folder) if path.exists() and path.stat().st_size else Study()


def _check_journal(path: Path) -> None:
    """Refuse a journal that is empty or gone beside the files of its trials: a search over it would write into them."""
    whole = path.exists() and path.stat().st_size
    trials = [] if whole else [folder for folder in (path.parent / "trials").glob("[0-9]*") if folder.is_dir()]
    if trials:
        state = "is empty" if path.exists() else "is gone"
        problem = (
            f"{path}: {state}, and {path.parent / 'trials'} has the files of {plural(len(trials), 'trial')}: the "
            "study has lost its journal; restore it from a copy (its run in MLflow has one), or begin another "
            "study (--name)"
        )
        raise UserError(problem, kind="lost", keys="study")
