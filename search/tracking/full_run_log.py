"""A full run in MLflow: beside the trials of the study that its config comes from, tagged `full_run`.

    with following(order, Path("best.yaml"), storage=None) as follower:    # None where there is no study to log under
        follower.report(measured)
        follower.ended(result)

The sender's thread sends what the run folder's metrics.jsonl has and MLflow lacks, so an outage costs nothing but
delay, and `--resume` continues the same MLflow run (its id is kept in the run folder). The run never waits for MLflow
and never fails by it.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from search.spec.trackers import DEFAULT
from search.study import environment
from search.study.journal import NAME
from search.study.lookup import STORAGE
from search.study.study import read_study
from search.tracking import mlflow_facts as facts
from search.tracking.full_run_record import FullRun, remember
from search.tracking.mlflow_place import correct
from search.tracking.mlflow_runs import FULL_RUN, GROUP, KEY, PARENT, STUDY, full_runs, send
from search.tracking.mlflow_store import choose_uri, connect, database_file, passing, reason, shown
from search.tracking.sender import CannotSendError, Sender
from search.tracking.tracker import to_stderr
from trainer import files, provenance
from trainer.__main__ import Order
from trainer.provenance import Provenance
from trainer.report import Report, Result
from trainer.run_folder import CONFIG, METRICS, config_time, report_lines

if TYPE_CHECKING:
    from search.tracking.mlflow_store import MlflowClient, Run

RUN_ID = "mlflow_run_id"  # a file in the run folder: the run's id, or `new KEY` before its creation is certain
NEW = "new "
LOOK = 5.0  # seconds between looks whether the run has begun
FLUSH = 30.0  # seconds that the end waits for what is not yet sent
FLUSH_INTERRUPTED = 5.0  # the same after Ctrl-C
LATER = "the same command with --resume sends it"


@contextmanager
def following(
    order: Order, config: Path, storage: Path | None, say: Callable[[str], None] = to_stderr
) -> Iterator[FullRunLog | None]:
    """Log the run under its study for as long as the block runs. config: its file.

    None for a config of no study and for a study with another tracker; and, with a line of why, for a study without a
    store here.
    """
    log = None
    came_from = provenance.read(config)
    folder = None if came_from is None else _folder(came_from, config, storage)
    if came_from is not None and _tracking(folder) == "mlflow":
        uri = choose_uri(STORAGE if folder is None else folder.parent)
        if folder is None and database_file(uri) is not None:
            place = (storage or STORAGE).resolve()
            say(
                f"not logged to MLflow: study {came_from.study} is not in {place} "
                "(--storage names another place, MLFLOW_TRACKING_URI a server)"
            )
        else:
            log = FullRunLog(uri, came_from, order, say, folder)
    if log is None:
        yield None
        return
    status, cause = "failed", ""
    try:
        yield log
        status = ""  # what `ended` was told
    except (KeyboardInterrupt, SystemExit):  # the latter: Ray answers SIGTERM so
        status = "interrupted"
        raise
    except BaseException as error:
        cause = " ".join(str(error).split()) or type(error).__name__
        raise
    finally:
        log.close(status, cause)


def _folder(came_from: Provenance, config: Path, storage: Path | None) -> Path | None:
    """Where the study's journal lies: in the storage, or beside the config; None where it is in neither."""
    places = [storage] if storage else [config.resolve().parent.parent, STORAGE]
    folders = (place / came_from.study for place in places)
    return next((folder for folder in folders if (folder / NAME).exists()), None)


def _tracking(folder: Path | None) -> str:
    """The tracker that the study's spec names."""
    if folder is None:
        return DEFAULT
    try:
        return read_study(folder).header.spec.tracking
    except UserError:  # a journal that cannot be read must not stop a full run
        return DEFAULT


class FullRunLog:
    """One full run on its way to MLflow. Its methods are for the thread that trains, and return at once."""

    def __init__(
        self, uri: str, came_from: Provenance, order: Order, say: Callable[[str], None], study: Path | None = None
    ) -> None:
        """study: the study's folder, which keeps a record of the run."""
        self.uri, self.came_from, self.order, self.say, self.study = uri, came_from, order, say, study
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._before = config_time(order.out)
        self._sent = -1  # tokens of the last report that MLflow has
        self._times: dict[int, float] = {}  # when a report was first seen: sent twice it is then the same
        self._end = self._ended = ("", "")  # status and cause
        self._sender = Sender("full-run-log", self._send, self._away, reason, say)

    def report(self, measured: Report) -> None:
        """Something new is in metrics.jsonl."""
        self._sender.wake()

    def ended(self, result: Result) -> None:
        """The run ended by itself."""
        self._ended = (result.status, result.message)

    def close(self, status: str = "", cause: str = "") -> None:
        """Send what is left, with how it ended: status and cause, or without them what `ended` was told."""
        self._end = (status, cause) if status else self._ended
        if not self._sender.close(FLUSH_INTERRUPTED if status == "interrupted" else FLUSH):
            why = self._sender.failure or "no answer yet"
            self.say(f"MLflow at {shown(self.uri)} lacks the end of this run ({why}); {LATER}")

    def _away(self, why: str) -> str:
        return f"MLflow at {shown(self.uri)}: {why}; the run continues without it"

    def _send(self, ending: bool) -> float | None:
        """Bring MLflow up to the run folder. Doing it twice changes nothing.

        Returns LOOK until the run has begun, which nobody tells; then None.
        """
        if not self._run_id:
            if config_time(self.order.out) == self._before:
                return LOOK  # not begun yet, or refused: nothing to remember
            self._client = self._client or connect(self.uri)
            if (file := database_file(self.uri)) is not None:
                correct(self.uri, file.parent, self.came_from.study)
            self._run_id = self._open(self._client)
        assert self._client is not None
        reports = [json.loads(line) for line in report_lines(self.order.out)]
        unsent = [
            {**report, "time": self._times.setdefault(report["tokens"], time.time())}
            for report in reports
            if report["tokens"] > self._sent
        ]
        for batch in facts.batches(unsent):
            if batch:
                metrics = [metric for line in batch for metric in facts.metrics(line)]
                send(self._client, self._run_id, metrics)
                self._sent = batch[-1]["tokens"]
        if ending:
            self._finish(self._client, *self._end)
        return None

    def _finish(self, client: MlflowClient, status: str, cause: str) -> None:
        send(client, self._run_id, tags={"status": status, "cause": cause or None})
        for name in (CONFIG, METRICS):
            if (path := self.order.out / name).exists():
                client.log_artifact(self._run_id, str(path))
        client.set_terminated(self._run_id, facts.RUN_STATUS[status])
        run = client.get_run(self._run_id)
        if self.study is not None and KEY in run.data.tags:
            remember(self.study, self._record(run, status))

    def _record(self, run: Run, status: str) -> FullRun:
        kept = {key: text for key, text in run.data.tags.items() if key not in (PARENT, GROUP, KEY, "mlflow.runName")}
        where, began, ended = str(self.order.out.resolve()), run.info.start_time, run.info.end_time
        child = PARENT in run.data.tags
        return FullRun(run.data.tags[KEY], run.info.run_name, where, began, ended, status, child, run.data.params, kept)

    def _open(self, client: MlflowClient) -> str:
        """The run of this run folder: the one that is noted in it, or a new one. Returns its id."""
        run = self._noted(client) or self._create(client)
        run_id = str(run.info.run_id)
        client.update_run(run_id, "RUNNING")
        self._sent = int(run.data.metrics.get("tokens", -1))
        self._describe(client, run_id, run.data.params)
        return run_id

    def _noted(self, client: MlflowClient) -> Run | None:
        note = self._note()
        if not note or note.startswith(NEW):
            return None
        try:
            run = client.get_run(note)
        except Exception as error:
            if passing(error):
                raise
            return None  # it is of another store, or deleted for good
        return run if run.info.lifecycle_stage == "active" else None

    def _create(self, client: MlflowClient) -> Run:
        """A new run. A try whose answer was lost, of this process or an earlier one, left a key and perhaps a run."""
        experiment, parent = self._parent(client)
        note = self._note()
        if note.startswith(NEW):
            key = note.removeprefix(NEW)
            runs = list(client.search_runs([experiment], f"tags.`{KEY}` = '{key}'", max_results=1))
        else:
            key, runs = uuid.uuid4().hex, self._restored(client, experiment) if note else []
            self._write_note(NEW + key)
        if runs:
            run = runs[0]
        else:
            tags = {FULL_RUN: "true", "full_run_of": str(self.came_from.trial), KEY: key}
            if not self.order.other_data:
                tags |= {PARENT: parent, GROUP: parent}
            tags |= {"mlflow.user": facts.user(), "mlflow.source.name": "nanosweep train"}
            other = " on other data" if self.order.other_data else ""
            name = f"full run of trial {self.came_from.trial}{other}: {self.order.out.name}"
            run = client.create_run(experiment, tags=tags, run_name=name)
        self._write_note(str(run.info.run_id))
        return run

    def _restored(self, client: MlflowClient, experiment: str) -> list[Run]:
        """The run of this run folder that a lost store has got again, under another id than the noted one."""
        active = [run for run in full_runs(client, experiment) if run.info.lifecycle_stage == "active"]
        return [run for run in active if run.data.tags.get("run_folder") == str(self.order.out.resolve())]

    def _note(self) -> str:
        path = self.order.out / RUN_ID
        return path.read_text().strip() if path.exists() else ""

    def _write_note(self, text: str) -> None:
        files.write(self.order.out / RUN_ID, lambda file: file.write(text.encode()))

    def _describe(self, client: MlflowClient, run_id: str, params: dict[str, str]) -> None:
        """MLflow never changes a param: those that a resumed run has otherwise (max_tokens, say) become a tag.

        params: what the run has already.
        """
        config = facts.texts(self.order.config.model_dump(mode="json"))
        changed = {key: value for key, value in config.items() if params.get(key, value) != value}
        commit, dirty = environment.code()
        tags: dict[str, Any] = {
            "status": "running",
            "loss": self.order.config.loss,
            "run_folder": str(self.order.out.resolve()),
            "data.hash": self.order.data.hash,
            "commit": commit,
            "dirty": dirty,
            "mlflow.source.git.commit": commit,
            "changed": changed or None,
            "edited": provenance.describe_edits(self.order.source) or None,
        }
        send(client, run_id, params={key: value for key, value in config.items() if key not in params}, tags=tags)

    def _parent(self, client: MlflowClient) -> tuple[str, str]:
        """The ids of the study's experiment and parent run: the newest of that name on the same data.

        Raises CannotSendError where the store has none.
        """
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        wanted = f"tags.`{STUDY}` = '{self.came_from.study}'"
        if self.came_from.data_hash:
            wanted += f" and params.`data.hash` = '{self.came_from.data_hash}'"
        runs = client.search_runs(experiments, wanted, max_results=1, order_by=["attributes.start_time DESC"])
        if not runs:
            raise CannotSendError(f"it has no study {self.came_from.study} of the data that the config names")
        return runs[0].info.experiment_id, runs[0].info.run_id
