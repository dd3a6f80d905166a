"""A tracker of one file: a line per record. The second file that a tracker needs is search/spec/trackers.py."""

from __future__ import annotations

from search.study.journal import Record
from search.study.ledger import Ledger
from search.tracking.tracker import Tracker


class LinesTracker(Tracker):
    """Appends the kind of each record to lines.txt in the study's folder."""

    def follow(self, ledger: Ledger) -> None:
        ledger.listeners.append(self.record)

    def record(self, record: Record) -> None:
        with (self.folder / "lines.txt").open("a") as file:
            file.write(f"{record['record']} {record.get('status', '')}\n")

    def close(self, seconds: float = 60.0) -> str:
        return "lines.txt has no pictures"

    @property
    def link(self) -> str | None:
        return (self.folder / "lines.txt").as_uri()
