"""A run folder that somebody else writes: its reports as they come, whether a run has begun in it."""

from __future__ import annotations

import json
from pathlib import Path

from trainer.records import CONFIG, METRICS
from trainer.report import Report


class Reports:
    """The reports of a run folder as they come, each step once: a run that went back to a checkpoint repeats some."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._old = set(lines(self.folder))
        self._before = begun_at(folder)
        self._step = -1

    def begun(self) -> bool:
        """Whether a worker has opened the folder."""
        return begun_at(self.folder) != self._before

    def new(self) -> list[Report]:
        """Those that have come since the last call."""
        found = [Report(**json.loads(line)) for line in lines(self.folder) if line not in self._old]
        fresh = [report for report in found if report.step > self._step]
        self._step = max((report.step for report in fresh), default=self._step)
        return fresh


def lines(folder: Path) -> list[str]:
    """Of metrics.jsonl so far; it is whole at any moment."""
    path = folder / METRICS
    return path.read_text().splitlines() if path.exists() else []


def begun_at(folder: Path) -> int | None:
    """When the folder's config was written, which is the first that a run does; None without one."""
    path = folder / CONFIG
    return path.stat().st_mtime_ns if path.exists() else None
