"""The ledger of a study being run: the journal, the study folded from it, and those who follow it."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.errors import UserError
from search.study.journal import NAME, Journal, Record, encode, read_records
from search.study.study import fold_any


class Ledger:
    """The journal and the state of a running study: the only place that holds the state of trials. Thread-safe.

    Ray's adapters write records here and read `study`. Each record goes first to disk, then into `study`, then to the
    listeners (tracker, live table).

    A listener is a function of a record, called in the writer's thread. A listener that raises is reported in one line
    and removed, as it may have stopped halfway; the journal, the study and the other listeners continue.
    """

    def __init__(self, folder: Path, say: Callable[[str], None] = lambda line: print(line, file=sys.stderr)) -> None:
        """say: prints a line to the user. Raises UserError for a journal that cannot be read."""
        path = folder / NAME
        self.journal = Journal(path)
        self.study = fold_any(read_records(path), str(path))
        self.listeners: list[Callable[[Record], None]] = []
        self._say = say
        self._lock = threading.RLock()

    def write(self, record: str, **fields: Any) -> Record:
        with self._lock:
            entry = json.loads(encode(self.journal.write(record, **fields)))
            self.study.apply(entry)
            for listener in list(self.listeners):
                try:
                    listener(entry)
                except Exception as error:
                    self._drop(listener, entry, error)
        return entry

    def _drop(self, listener: Callable[[Record], None], record: Record, error: Exception) -> None:
        self.listeners.remove(listener)
        reason = str(UserError(str(error))) or type(error).__name__  # one printable line
        trial = f" of trial {record['trial']}" if "trial" in record else ""
        with suppress(OSError, ValueError):  # stderr may be closed
            self._say(
                f"{listener_name(listener)} failed at a {record['record']} record{trial} and gets no more of them "
                f"({reason}); the study and its journal continue"
            )

    def close(self) -> None:
        self.journal.close()


def listener_name(listener: Callable[[Record], None]) -> str:
    """A listener's name for messages: `listener_name` of it or of the object of the method; else Python's name."""
    owner = getattr(listener, "__self__", listener)
    name = getattr(owner, "listener_name", None) or getattr(owner, "__qualname__", None)
    return str(name or type(owner).__name__)
