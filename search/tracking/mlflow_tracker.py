"""`tracking: mlflow`: MLflow follows the journal of a running study.

The sender's thread does all sending. It keeps its own fold of the records and the numbers of trials that MLflow does
not have as they are; a server that goes away costs nothing but delay, as each trial is sent as it stands when it is
back. What a driver could not send, the next one sends.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from search.study.failures import failed_alike
from search.study.journal import INACTIVE, Record
from search.study.ledger import Ledger
from search.study.study import Study, read_study
from search.tracking import credentials
from search.tracking.full_run_record import restore
from search.tracking.mlflow_files import send_files
from search.tracking.mlflow_runs import Runs
from search.tracking.mlflow_store import check_file, choose_uri, connect, database_file, passing, reason, served, shown
from search.tracking.mlflow_view import link
from search.tracking.sender import Sender
from search.tracking.tracker import FLUSH, Tracker, to_stderr
from trainer.units import plural

if TYPE_CHECKING:
    from search.tracking.mlflow_store import MlflowClient

FILES_EVERY = 60.0  # seconds between copies of journal and leaderboard, more where one takes long


class MlflowTracker(Tracker):
    """One study's records on their way to MLflow. `record` may be called from any thread."""

    listener_name = "the MLflow tracker"

    def __init__(self, folder: Path, uri: str | None = None, say: Callable[[str], None] = to_stderr) -> None:
        """uri: of the store, default as `choose_uri`. Raises UserError for a store that MLflow cannot use."""
        super().__init__(folder, say)
        self._chosen_uri = uri
        self.uri = uri or choose_uri(folder.parent)
        self.study = Study()
        self._client: MlflowClient | None = None
        self._runs: Runs | None = None
        self._records: queue.SimpleQueue[Record] = queue.SimpleQueue()
        self._behind: dict[int, float | None] = {}  # trials to send, and when their status changed
        self._refused: dict[int, str] = {}
        self._parent_behind = True
        self._files_due, self._files_behind, self._files_refused = 0.0, True, ""
        self._sender: Sender | None = None

    def describe(self) -> str:
        return f"mlflow at {shown(self.uri)}"

    def check(self) -> None:
        """Ask a server whether it is there, within 10 s. A database's file is made by `connect`. Raises UserError."""
        credentials.take()  # may hold the store's address
        self.uri = self._chosen_uri or choose_uri(self.folder.parent)
        if served(self.uri):
            connect(self.uri)

    def connect(self) -> None:
        """Ask the store whether it is there. Raises UserError when it is not, a server within 10 s.

        Of SQLite only that the file can be written: MLflow's import and its tables take 5 to 10 s, which the
        thread spends while the search begins.
        """
        if (file := database_file(self.uri)) is not None:
            check_file(file)
        else:
            self._client = connect(self.uri)

    def follow(self, ledger: Ledger) -> None:
        self.study = read_study(self.folder)
        for trial in self.study.trials.values():
            if trial.status not in (*INACTIVE, "waiting"):
                trial.status = "interrupted"  # as its driver is gone; it runs again when a record says so
        self._behind = dict.fromkeys(sorted(self.study.trials))
        ledger.listeners.append(self.record)
        self._sender = Sender("mlflow-tracker", self._send, self._away, reason, self.say)

    def record(self, record: Record) -> None:
        """Take a journal record; returns at once."""
        self._records.put(record)
        if self._sender is not None:
            self._sender.wake()

    @property
    def link(self) -> str | None:
        """The page that shows the study sorted by objective; None without a server (`nanosweep ui` starts one)."""
        if self._runs is None or not self._runs.parent_id or not served(self.uri):
            return None
        return link(self.uri, self._runs.experiment_id, self._runs.parent_id)

    def close(self, seconds: float = FLUSH) -> str:
        if self._sender is None:
            return ""
        self._sender.close(seconds)
        trials = len({*self._behind, *self._refused})
        lacking = ([f"the latest of {plural(trials, 'trial')}"] if trials else []) + (
            ["its files"] if self._files_behind else []
        )
        if not lacking and not self._parent_behind:
            return ""
        why = (
            self._sender.failure
            or next(iter(self._refused.values()), self._files_refused)
            or f"not done in {seconds:g} s"
        )
        return (
            f"MLflow at {shown(self.uri)} lacks {' and '.join(lacking) or 'the end of the study'} ({why}); "
            "nothing is lost: the same `nanosweep run` sends it, even when the study has ended"
        )

    def finish(self) -> None:
        """The study's leader into the model registry."""
        from search.tracking.registry import keep_up

        keep_up(self.folder, self.say, self.uri)

    def job_variables(self, cluster: str, here: bool, password_files: Mapping[str, Path]) -> dict[str, str]:
        return credentials.job_variables(self.folder.parent, cluster, here, password_files)

    def job_lines(self) -> list[str]:
        if not served(self.uri):
            return []
        from search.tracking.mlflow_read import address_of

        page = address_of(self.folder.name, self.uri, 5)
        return [f"MLflow: {page or f'{shown(self.uri)} (the study is there a minute from now)'}"]

    def _away(self, why: str) -> str:
        return f"MLflow at {shown(self.uri)} does not answer ({why}); the search continues, records wait"

    def _take(self) -> None:
        """Fold the records that have come."""
        while True:
            try:
                self._fold(self._records.get_nowait())
            except queue.Empty:
                return

    def _fold(self, record: Record) -> None:
        self.study.apply(record)
        self._files_behind = True
        if record["record"] == "study":
            self._parent_behind = True
        elif record["record"] in ("report", "status"):
            now = record["time"] if record["record"] == "status" else self._behind.get(record["trial"])
            self._behind[record["trial"]] = now

    def _send(self, ending: bool) -> float | None:
        """Bring MLflow up to the journal. Returns the seconds until its files are due again."""
        self._take()
        if self._runs is None:
            self._client = self._client or connect(self.uri)
            self._runs = Runs(self._client, self.uri, self.folder, self.study)
        if not self._runs.parent_id:
            self._runs.open()
            self._say_refused()
        if self._parent_behind:
            self._runs.sync_parent("RUNNING")
            self._parent_behind = False
        for number in list(self._behind):
            if self._sender is not None and self._sender.given_up:
                return None
            self._send_trial(number)
        if ending or (self._files_behind and time.monotonic() >= self._files_due):
            self._send_files(ending)
        if ending:
            self._parent_behind = True
            over = all(trial.status in INACTIVE for trial in self.study.trials.values())
            self._runs.sync_parent("FAILED" if failed_alike(self.study) else "FINISHED" if over else "KILLED")
            self._parent_behind = False
        return max(0.01, self._files_due - time.monotonic()) if self._files_behind else None

    def _say_refused(self) -> None:
        assert self._runs is not None
        if self._runs.refused:
            key, why = next(iter(self._runs.refused.items()))
            more = f" and {len(self._runs.refused) - 1} more" if len(self._runs.refused) > 1 else ""
            self.say(f"MLflow at {shown(self.uri)} refuses the param {key}{more}: {why}; all else is sent")

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
            send_files(self._runs, ending)
            if ending:
                restore(self._runs)
            self._files_behind = False
        except Exception as error:
            if passing(error):
                raise
            if not self._files_refused:
                self.say(f"MLflow at {shown(self.uri)} takes no files: {reason(error)}")
            self._files_refused = reason(error)
        # a long journal on a slow line must not take up the whole thread
        self._files_due = time.monotonic() + max(FILES_EVERY, 20 * (time.monotonic() - begun))
