"""The MLflow side of a running study: a listener of the journal. It never blocks the search and never fails it.

    with Tracker(spec.folder) as tracker:    # asks whether MLflow is there; raises UserError when it is not
        ledger = Ledger(spec.folder)
        ledger.write("study", ...)
        tracker.follow(ledger)               # brings MLflow up to the journal, then sends what comes
        ...                                  # the search
                                             # at the end: what is left is sent, and said if it cannot be

A thread does all sending. It keeps its own fold of the records and the numbers of trials that MLflow does not have
as they are; a server that goes away costs nothing but delay, as each trial is sent as it stands when it is back.
"""

from __future__ import annotations

import queue
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from search.study.journal import AT_REST, Record
from search.study.study import Ledger, Study, read_study
from search.tracking.mlflow_runs import Runs
from search.tracking.mlflow_store import check_file, choose_uri, connect, passing, reason, served, shown
from search.tracking.mlflow_view import link

if TYPE_CHECKING:
    from search.tracking.mlflow_store import MlflowClient

FILES_EVERY = 60.0  # seconds between copies of journal and leaderboard, more where one takes long
FLUSH = 60.0  # seconds that the end waits for what is not yet sent


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class Tracker:
    """One study's records on their way to MLflow. Methods are for the driver's thread; `record` for any."""

    def __init__(self, folder: Path, uri: str | None = None, say: Callable[[str], None] = _to_stderr) -> None:
        """folder: `<storage>/<study>`. uri: default as `choose_uri`. say: takes lines for people. Raises UserError."""
        self.folder, self.say = folder, say
        self.uri = uri or choose_uri(folder.parent)
        self.study = Study()
        self._client: MlflowClient | None = None
        self._runs: Runs | None = None
        self._records: queue.SimpleQueue[Record | None] = queue.SimpleQueue()
        self._behind: dict[int, float | None] = {}  # trials to send, and when their status changed
        self._refused: dict[int, str] = {}
        self._parent_behind = True
        self._files_due, self._files_behind, self._files_refused = 0.0, True, ""
        self._away = ""  # why the last try failed
        self._closing = threading.Event()
        self._given_up = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Tracker:
        self.connect()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # whoever presses Ctrl-C twice does not want to wait
        if missing := self.close(3.0 if kind is KeyboardInterrupt else FLUSH):
            self.say(missing)

    def connect(self) -> None:
        """Ask the store whether it is there. Raises UserError when it is not, a server within 10 s.

        Of SQLite only that the file can be written: MLflow's import and its tables take 5 to 10 s, which the
        thread spends while the search begins.
        """
        if self.uri.startswith("sqlite:"):
            check_file(self.uri)
        else:
            self._client = connect(self.uri)

    def follow(self, ledger: Ledger) -> None:
        """Send what the journal holds and MLflow lacks, then every record of the ledger. Nobody may be writing yet."""
        self.study = read_study(self.folder)
        for trial in self.study.trials.values():
            if trial.status not in (*AT_REST, "waiting"):
                trial.status = "interrupted"  # as its driver is gone; it runs again when a record says so
        self._behind = dict.fromkeys(sorted(self.study.trials))
        ledger.listeners.append(self.record)
        self._thread = threading.Thread(target=self._work, name="mlflow-tracker", daemon=True)
        self._thread.start()

    def record(self, record: Record) -> None:
        """Take a journal record; returns at once."""
        self._records.put(record)

    @property
    def link(self) -> str | None:
        """The page that shows the study sorted by objective; None without a server (`nanosweep ui` starts one)."""
        if self._runs is None or not self._runs.parent_id or not served(self.uri):
            return None
        return link(self.uri, self._runs.experiment_id, self._runs.parent_id)

    def close(self, seconds: float = FLUSH) -> str:
        """Send what is left and end the thread. Returns the empty string, or one line on what MLflow still lacks."""
        if self._thread is None:
            return ""
        self._closing.set()
        self._records.put(None)
        self._thread.join(seconds)
        self._given_up.set()
        self._thread.join(1)  # between two requests; one that hangs is left to the thread, which dies with us
        self._thread = None
        trials = len({*self._behind, *self._refused})
        lacking = ([f"the latest of {trials} trials"] if trials else []) + (["its files"] if self._files_behind else [])
        if not lacking and not self._parent_behind:
            return ""
        why = self._away or next(iter(self._refused.values()), self._files_refused) or f"not done in {seconds:g} s"
        return (
            f"MLflow at {shown(self.uri)} lacks {' and '.join(lacking) or 'the end of the study'} ({why}); "
            "nothing is lost: the same `nanosweep run` sends it, even when the study has ended"
        )

    def _work(self) -> None:
        delay = 0.0
        while not self._given_up.is_set():
            ending = self._take(delay)
            try:
                self._send(ending)
                delay, self._away = 0.0, ""
            except Exception as error:
                if not self._away:
                    self.say(f"MLflow at {shown(self.uri)} is away ({reason(error)}); the search goes on, records wait")
                self._away = reason(error)
                delay = 0.5 if ending else min(max(1.0, delay * 2), 30.0)
                continue
            if ending and not self._behind:
                return

    def _take(self, delay: float) -> bool:
        """Fold the records that have come; wait for one if there is nothing to do, or for `delay` after a failure.

        Returns whether no more will come.
        """
        if delay:
            (self._given_up if self._closing.is_set() else self._closing).wait(delay)
        idle = not (self._behind or self._parent_behind or delay)
        wait = max(0.01, self._files_due - time.monotonic()) if self._files_behind else None
        while True:
            try:
                record = self._records.get(block=idle, timeout=wait)
            except queue.Empty:
                return self._closing.is_set()
            idle = False
            if record is not None:
                self._fold(record)

    def _fold(self, record: Record) -> None:
        self.study.apply(record)
        self._files_behind = True
        if record["record"] == "study":
            self._parent_behind = True
        elif record["record"] in ("report", "status"):
            now = record["time"] if record["record"] == "status" else self._behind.get(record["trial"])
            self._behind[record["trial"]] = now

    def _send(self, ending: bool) -> None:
        if self._runs is None:
            self._client = self._client or connect(self.uri)
            self._runs = Runs(self._client, self.uri, self.folder, self.study)
        if not self._runs.parent_id:
            self._runs.open()
        if self._parent_behind:
            self._runs.sync_parent("RUNNING")
            self._parent_behind = False
        for number in list(self._behind):
            if self._given_up.is_set():
                return
            self._send_trial(number)
        if ending or (self._files_behind and time.monotonic() >= self._files_due):
            self._send_files(ending)
        if ending:
            self._parent_behind = True
            over = all(trial.status in AT_REST for trial in self.study.trials.values())
            self._runs.sync_parent("FINISHED" if over else "KILLED")
            self._parent_behind = False

    def _send_trial(self, number: int) -> None:
        assert self._runs is not None
        try:
            self._runs.sync(number, self._behind[number])
            self._refused.pop(number, None)
        except Exception as error:
            if passing(error):
                raise
            if not self._refused:
                self.say(f"MLflow at {shown(self.uri)} refuses trial {number}: {reason(error)}")
            self._refused[number] = reason(error)
        del self._behind[number]

    def _send_files(self, ending: bool) -> None:
        assert self._runs is not None
        begun = time.monotonic()
        try:
            self._runs.sync_parent()
            self._runs.snapshot(ending)
            self._files_behind = False
        except Exception as error:
            if passing(error):
                raise
            if not self._files_refused:
                self.say(f"MLflow at {shown(self.uri)} takes no files: {reason(error)}")
            self._files_refused = reason(error)
        # a long journal on a slow line must not take up the whole thread
        self._files_due = time.monotonic() + max(FILES_EVERY, 20 * (time.monotonic() - begun))
