"""Read a run folder: its reports, the notes on top of its config, and new reports while another process writes it.

Needs no torch. trainer.checkpoint lists the files and writes them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.errors import UserError
from trainer.report import Report

CONFIG, METRICS, CARD = "config.yaml", "metrics.jsonl", "MODEL_CARD.md"
ERROR = "error.txt"  # the traceback of a run that failed in Ray's workers
PROGRESS = "progress.json"  # tokens so far of a run in Ray's workers, for its driver to show
FLOOR = "entropy floor"  # key of a note, written where the entropy of the corpus can be computed


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, each as the fields of a Report. Raises UserError where there are none."""
    path = folder / METRICS
    try:
        reports = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable file of reports ({type(error).__name__})") from None
    if not reports:
        raise UserError(f"{path} holds no report; let the run continue to its first")
    return reports


def read_notes(folder: Path) -> dict[str, str]:
    """The `# key: value` comments that `checkpoint.open_folder` wrote into config.yaml; {} where there are none."""
    path = folder / CONFIG
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = (line.removeprefix("# ").partition(": ") for line in lines if line.startswith("# "))
    return {key: value for key, _, value in pairs}


class Reports:
    """Follow the metrics.jsonl of a run in another process; each step is returned once.

    A run that resumed from a checkpoint writes some steps again. Lines from before this object existed are ignored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._old = set(report_lines(self.folder))
        self._before = config_time(folder)
        self._step = -1

    def begun(self) -> bool:
        """Whether a worker has opened the folder since this object was created."""
        return config_time(self.folder) != self._before

    def new(self) -> list[Report]:
        """The reports since the last call."""
        reports = [Report(**json.loads(line)) for line in report_lines(self.folder) if line not in self._old]
        fresh = [report for report in reports if report.step > self._step]
        self._step = max((report.step for report in fresh), default=self._step)
        return fresh


def report_lines(folder: Path) -> list[str]:
    """The lines of metrics.jsonl so far; the file is replaced atomically, so the last line is complete."""
    path = folder / METRICS
    return path.read_text().splitlines() if path.exists() else []


def config_time(folder: Path) -> int | None:
    """Modification time of the folder's config in ns, None without one. A run writes its config before all else."""
    path = folder / CONFIG
    return path.stat().st_mtime_ns if path.exists() else None


def read_progress(folder: Path) -> int | None:
    """Tokens trained so far, as a worker last noted them; None before it has."""
    try:
        return int(json.loads((folder / PROGRESS).read_text())["tokens"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there yet, or being replaced on a file system that is slow to tell
