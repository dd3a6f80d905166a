"""Trackers: what follows a study's journal and shows its records elsewhere. Search and commands know only this file.

    tracker = open_tracker(spec.tracking, spec.folder)
    tracker.check()                     # before the data are prepared: can records be sent at all?
    with connected(tracker):
        ledger = Ledger(spec.folder)
        ledger.write("study", ...)
        tracker.follow(ledger)          # what the journal holds, then each record that is written
        ...                             # the search; at the end what is left is sent, and said if it cannot be
    finish(tracker)

A tracker is a subclass of Tracker in a file of its own and a line in search/spec/trackers.py.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

from data.errors import UserError
from search.spec.trackers import TRACKERS
from search.study.ledger import Ledger

FLUSH = 60.0  # seconds that the end of a study waits for what is not yet sent
FLUSH_INTERRUPTED = 3.0  # the same after a second Ctrl-C


def to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Tracker:
    """`tracking: none`, which sends nothing; and the base of every other tracker, which overrides what it needs.

    The driver calls `check`, `connect`, `follow` and `close` once each, in this order, from one thread, except that
    `close` may come from another thread when Ray has died. `plan`, `submit` and the commands that only print call
    `describe`, `link`, `job_variables` and `job_lines` on a tracker that follows nothing.
    """

    listener_name = "the tracker"  # in a line about a listener that failed, see Ledger

    def __init__(self, folder: Path, say: Callable[[str], None] = to_stderr) -> None:
        """folder: `<storage>/<study>`, which need not exist. say: takes lines for people. Raises UserError."""
        self.folder, self.say = folder, say

    def describe(self) -> str:
        """Where the records go, in a few words, for `nanosweep plan`. Raises UserError for a setting that is wrong."""
        return "none: records stay in the study's folder"

    def check(self) -> None:
        """Ask whether records can be sent, before anything is prepared; leaves no files. Raises UserError."""

    def connect(self) -> None:
        """Make ready to send, just before the search begins. Raises UserError."""

    def follow(self, ledger: Ledger) -> None:
        """Send what the ledger's journal holds, then every record: append a function to `ledger.listeners`.

        Nobody writes to the ledger meanwhile. Neither this nor the listener may wait for anything slow: the search
        waits for them, so that whatever needs a network belongs in a thread (search/tracking/sender.py).
        """

    def close(self, seconds: float = FLUSH) -> str:
        """Send what is left, within so many seconds. Returns the empty string, or one line on what is missing."""
        return ""

    def finish(self) -> None:
        """What is done once, after `close`, when a driver has reached its end."""

    @property
    def link(self) -> str | None:
        """The address that shows the study, as far as it is known; None without one."""
        return None

    def job_variables(self, cluster: str, here: bool, password_files: Mapping[str, Path]) -> dict[str, str]:
        """The environment variables that the tracker of a driver needs as a job on a Ray cluster. Raises UserError.

        cluster: its address. here: whether it runs on this machine. password_files: by the address of a server, the
        file on the cluster that holds its password. Whoever may list jobs sees the variables: no secrets.
        """
        return {}

    def job_lines(self) -> list[str]:
        """What `nanosweep submit` prints about a study that has just been submitted."""
        return []


def open_tracker(name: str, folder: Path, say: Callable[[str], None] = to_stderr) -> Tracker:
    """The tracker of that name for the study in `folder`. Raises UserError, KeyError for a name not in TRACKERS."""
    module, _, kind = TRACKERS[name].partition(":")
    tracker: Tracker = getattr(import_module(module), kind)(folder, say=say)
    return tracker


@contextmanager
def connected(tracker: Tracker) -> Iterator[Tracker]:
    """Connect a tracker; at the end of the block close it, and say what it could not send. Raises UserError."""
    tracker.connect()
    seconds = FLUSH
    try:
        yield tracker
    except KeyboardInterrupt:  # whoever presses Ctrl-C twice does not want to wait
        seconds = FLUSH_INTERRUPTED
        raise
    finally:
        if missing := close(tracker, seconds):
            tracker.say(missing)


def close(tracker: Tracker, seconds: float) -> str:
    """As the tracker's own `close`, but an exception is a line about what is missing: it must not fail the study."""
    try:
        return tracker.close(seconds)
    except Exception as error:
        return _failed(tracker, "closed", error)


def finish(tracker: Tracker) -> None:
    """As the tracker's own `finish`, but an exception is said in a line: it must not fail the study."""
    try:
        tracker.finish()
    except Exception as error:
        tracker.say(_failed(tracker, "finished", error))


def _failed(tracker: Tracker, step: str, error: Exception) -> str:
    reason = str(UserError(str(error))) or type(error).__name__  # one printable line
    return f"{tracker.listener_name} failed as it was {step}: {reason}; the journal has all records"
