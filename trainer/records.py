"""What a run folder says as text: its reports, and the notes on top of its config. Reads without torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from data.errors import UserError

CONFIG, METRICS, CARD = "config.yaml", "metrics.jsonl", "MODEL_CARD.md"
FLOOR = "entropy floor"  # a note, where the corpus's entropy is known


def read_reports(folder: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl, each as a Report's fields. Raises UserError where there are none."""
    path = folder / METRICS
    try:
        found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a readable file of reports ({type(error).__name__})") from None
    if not found:
        raise UserError(f"{path} holds no report; let the run continue to its first")
    return found


def read_notes(folder: Path) -> dict[str, str]:
    """What `checkpoint.open_folder` wrote into config.yaml as comments; {} where there are none."""
    path = folder / CONFIG
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    pairs = (line.removeprefix("# ").partition(": ") for line in lines if line.startswith("# "))
    return {key: value for key, _, value in pairs}
