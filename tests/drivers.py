"""A driver as a process of its own, to be maltreated: what its journal says, and which processes train for it."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import until as until  # whoever has a driver waits for it


def records(journal: Path, kind: str, trial: int) -> list[dict[str, Any]]:
    if not journal.exists():
        return []
    lines = [json.loads(line) for line in journal.read_text().splitlines(keepends=True) if line.endswith("\n")]
    return [record for record in lines if record["record"] == kind and record["trial"] == trial]


def children(driver: int, word: str) -> list[psutil.Process]:
    """A driver's processes whose first word holds `word`; psutil reads a process's name as Ray rewrites it."""
    found = []
    for process in psutil.Process(driver).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended as we looked
            if word in "".join(process.cmdline()[:1]):
                found.append(process)
    return found


def workers(driver: int) -> list[psutil.Process]:
    """Those that train."""
    return children(driver, "ImplicitFunc")
