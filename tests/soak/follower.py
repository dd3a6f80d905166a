"""The journal as it grows: read from outside while drivers come and go."""

from __future__ import annotations

import json
import time
from collections import Counter
from pathlib import Path

from search.study.journal import ENDED, Record
from search.study.study import Study


class Follower:
    """Whole lines only: what a dying driver cut short, the next one takes away before it writes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.study = Study()
        self.records: list[Record] = []
        self.reports = 0
        self.grown = time.monotonic()  # when the last record was seen
        self._at = 0

    def read(self) -> None:
        """Take in what has been written since the last time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._at)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._at += len(whole)
        for line in whole.splitlines():
            record = json.loads(line)
            self.records.append(record)
            self.study.apply(record)
            self.reports += record["record"] == "report"
            self.grown = time.monotonic()

    def stands(self) -> str:
        """How the journal stands, in words."""
        by = Counter(trial.status for trial in self.study.trials.values())
        ended = sum(by[status] for status in ENDED)
        return f"{ended:>3} ended, {by['running']} running, {self.reports:>3} reports"
