"""A study as its journal tells it: trials folded from records, and the ledger of a study being run."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import UserError
from search.journal import FULL, NAME, Journal, Record, decode_metrics, encode, read_records


@dataclass
class Trial:
    """One trial, folded from its records."""

    number: int
    point: dict[str, Any]
    config: dict[str, Any]
    name: str = ""
    status: str = "waiting"
    cause: str = ""
    rung: int | None = None
    seconds: float = 0.0
    n_parameters: int | None = None
    repeated: int = 0  # tokens trained twice because a worker or driver was lost
    reports: list[Record] = field(default_factory=list)
    decisions: list[Record] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return max((report["tokens"] for report in self.reports), default=0)

    @property
    def checkpoint(self) -> str | None:
        return next((r["checkpoint"] for r in reversed(self.reports) if r.get("checkpoint")), None)

    @property
    def final(self) -> Record | None:
        """The last report of a trial that ran to its end."""
        return next((r for r in reversed(self.reports) if r.get("final")), None) if self.status in FULL else None


@dataclass
class Study:
    """A journal, folded: the last study record and every trial by number."""

    header: Record = field(default_factory=dict)
    trials: dict[int, Trial] = field(default_factory=dict)

    def apply(self, record: Record) -> None:
        """Take in one record. Raises ValueError for one that speaks of a trial without a point."""
        kind = record["record"]
        if kind == "study":
            self.header = record
            return
        number = record["trial"]
        if kind == "point":
            name = record.get("name", str(number))
            self.trials[number] = Trial(number, record["point"], record["config"], name)
            return
        if number not in self.trials:
            raise ValueError(f"a {kind} record of trial {number}, which has no point")
        trial = self.trials[number]
        if kind == "report":
            trial.reports.append({**record, "metrics": decode_metrics(record["metrics"])})
        elif kind == "decision":
            trial.decisions.append(record)
        elif kind == "status":
            _apply_status(trial, record)


def _apply_status(trial: Trial, record: Record) -> None:
    trial.status = record["status"]
    trial.cause = record.get("cause") or ""
    trial.rung = record.get("rung")
    trial.seconds = record.get("seconds") or trial.seconds
    trial.n_parameters = record.get("n_parameters") or trial.n_parameters
    if trial.status == "running":
        # it goes on from a checkpoint: what it reported after that comes again, and was trained twice
        start = record.get("tokens", 0)
        trial.repeated += max(0, trial.tokens - start)
        trial.reports = [report for report in trial.reports if report["tokens"] <= start]


def fold(records: Iterable[Record], name: str = NAME) -> Study:
    """Read a journal's records into a Study. Raises UserError when it holds no study record."""
    study = Study()
    for record in records:
        try:
            study.apply(record)
        except (ValueError, KeyError) as error:
            raise UserError(f"{name}: {error}; restore the file from a copy") from None
    if not study.header:
        raise UserError(f"{name}: holds no study record; was the study ever started?")
    return study


class Ledger:
    """A study being run: each record is on disk, then in `study`, then with the listeners (tracker, live table).

    Ray's adapters write here and read `study`; nobody else keeps state about trials. Thread-safe.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / NAME
        self.journal = Journal(path)
        self.study = Study()
        for record in read_records(path):
            self.study.apply(record)
        self.listeners: list[Callable[[Record], None]] = []
        self._lock = threading.RLock()

    def write(self, record: str, **fields: Any) -> Record:
        with self._lock:
            entry = json.loads(encode(self.journal.write(record, **fields)))
            self.study.apply(entry)
            for listener in self.listeners:
                listener(entry)
        return entry

    def close(self) -> None:
        self.journal.close()


def read_study(folder: Path) -> Study:
    """The study in a folder. Raises UserError when there is none."""
    path = folder / NAME
    if not path.exists():
        raise UserError(f"{path}: no such study")
    return fold(read_records(path), str(path))
