"""A full run in MLflow: beside the trials of the study that its config comes from, tagged `full_run`.

    with following(order, Path("best.yaml"), storage=None) as follower:    # None where there is no study to log under
        follower.report(measured)
        follower.ended(result)

A thread sends what the run folder's metrics.jsonl has and MLflow lacks, so an outage costs nothing but delay, and
`--resume` goes on with the same MLflow run (its id is kept in the run folder). The run never waits for MLflow and
never fails by it.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from search.study import environment
from search.study.journal import NAME
from search.study.lookup import STORAGE
from search.tracking import mlflow_facts as facts
from search.tracking.mlflow_runs import FULL_RUN, PARENT, STUDY, send
from search.tracking.mlflow_store import choose_uri, connect, passing, reason, shown
from trainer import files, provenance
from trainer.__main__ import Order
from trainer.provenance import Provenance
from trainer.records import CONFIG, METRICS
from trainer.report import Report, Result
from trainer.run_folder import begun_at, lines

if TYPE_CHECKING:
    from search.tracking.mlflow_store import MlflowClient

RUN_ID = "mlflow_run_id"  # a file in the run folder
LOOK = 5.0  # seconds between looks whether the run has begun
FLUSH = 30.0  # seconds that the end waits for what is not yet sent
LATER = "the same command with --resume sends it"


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


@contextmanager
def following(
    order: Order, config: Path, storage: Path | None, say: Callable[[str], None] = _to_stderr
) -> Iterator[FullRunLog | None]:
    """Log the run under its study for as long as the block runs. config: the file that was given.

    None, with a line of why where that needs saying, for a config of no study and for a study without a store here.
    """
    log = None
    if (came_from := provenance.read(config)) is not None:
        uri = _store(came_from, config, storage)
        if uri is None:
            place = (storage or STORAGE).resolve()
            say(
                f"not logged to MLflow: study {came_from.study} is not in {place} "
                "(--storage names another place, MLFLOW_TRACKING_URI a server)"
            )
        else:
            log = FullRunLog(uri, came_from, order, say)
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


def _store(came_from: Provenance, config: Path, storage: Path | None) -> str | None:
    """Where the study's records lie: what MLFLOW_TRACKING_URI names, else the storage that the study is in."""
    places = [storage] if storage else [config.resolve().parent.parent, STORAGE]
    found = next((place for place in places if (place / came_from.study / NAME).exists()), None)
    uri = choose_uri(found or STORAGE)
    return uri if found is not None or not uri.startswith("sqlite:") else None


class FullRunLog:
    """One full run on its way to MLflow. Its methods are for the thread that trains, and return at once."""

    def __init__(self, uri: str, came_from: Provenance, order: Order, say: Callable[[str], None]) -> None:
        self.uri, self.came_from, self.order, self.say = uri, came_from, order, say
        self._client: MlflowClient | None = None
        self._run_id = ""
        self._before = begun_at(order.out)
        self._sent = -1  # tokens of the last report that MLflow has
        self._end: tuple[str, str] | None = None  # status and cause
        self._ended = ("", "")
        self._woken, self._done, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._away = ""
        threading.Thread(target=self._work, name="full-run-log", daemon=True).start()

    def report(self, measured: Report) -> None:
        """Something new is in metrics.jsonl."""
        self._woken.set()

    def ended(self, result: Result) -> None:
        """The run ended by itself."""
        self._ended = (result.status, result.message)

    def close(self, status: str = "", cause: str = "") -> None:
        """Send what is left, with how it ended: status and cause, or without them what `ended` was told."""
        self._end = (status, cause) if status else self._ended
        self._woken.set()
        if not self._done.wait(5.0 if status == "interrupted" else FLUSH):
            self._given_up.set()
            self.say(
                f"MLflow at {shown(self.uri)} lacks the end of this run ({self._away or 'no answer yet'}); {LATER}"
            )

    def _work(self) -> None:
        delay = 0.0
        while not self._given_up.is_set():
            # until it has begun, which nobody tells, a look now and then
            self._woken.wait(delay or (None if self._run_id else LOOK))
            self._woken.clear()
            ending = self._end
            try:
                self._send(ending)
                delay, self._away = 0.0, ""
            except Exception as error:
                if not self._away:
                    self.say(f"MLflow at {shown(self.uri)}: {reason(error)}; the run goes on without it")
                self._away = reason(error)
                if isinstance(error, _NoStudyError):
                    break
                delay = 0.5 if self._end else min(max(1.0, delay * 2), 30.0)
                continue
            if ending is not None:
                break
        self._done.set()

    def _send(self, ending: tuple[str, str] | None) -> None:
        """Bring MLflow up to the run folder. Doing it twice changes nothing."""
        if not self._run_id:
            if begun_at(self.order.out) == self._before:
                return  # not begun yet, or refused: nothing to remember
            self._client = self._client or connect(self.uri)
            self._run_id = self._open(self._client)
        reports = [json.loads(line) for line in lines(self.order.out)]
        assert self._client is not None
        now = time.time()
        for batch in facts.batches([{**line, "time": now} for line in reports if line["tokens"] > self._sent]):
            if batch:
                metrics = [metric for line in batch for metric in facts.metrics(line)]
                send(self._client, self._run_id, metrics)
                self._sent = batch[-1]["tokens"]
        if ending is not None:
            self._finish(self._client, *ending)

    def _finish(self, client: MlflowClient, status: str, cause: str) -> None:
        send(client, self._run_id, tags={"status": status, "cause": cause or None})
        for name in (CONFIG, METRICS):
            if (path := self.order.out / name).exists():
                client.log_artifact(self._run_id, str(path))
        client.set_terminated(self._run_id, facts.RUN_STATUS[status])

    def _open(self, client: MlflowClient) -> str:
        """The run of this run folder: the one that is noted in it, or a new one. Returns its id."""
        note = self.order.out / RUN_ID
        if note.exists():
            try:
                known = client.get_run(note.read_text().strip())
            except Exception as error:
                if passing(error):
                    raise
                # else it is of another store, or deleted: a new one
            else:
                client.update_run(known.info.run_id, "RUNNING")
                self._sent = int(known.data.metrics.get("tokens", -1))
                self._describe(client, known.info.run_id, known.data.params)
                return str(known.info.run_id)
        experiment, parent = self._parent(client)
        tags = {PARENT: parent, FULL_RUN: "true", "full_run_of": str(self.came_from.trial)}
        tags |= {"mlflow.user": facts.user(), "mlflow.source.name": "nanosweep train"}
        name = f"full run of trial {self.came_from.trial}: {self.order.out.name}"
        run_id = str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)
        files.write(note, lambda file: file.write(run_id.encode()))
        self._describe(client, run_id, {})
        return run_id

    def _describe(self, client: MlflowClient, run_id: str, known: dict[str, str]) -> None:
        """Params are for ever in MLflow: those that a resumed run has otherwise (max_tokens, say) become a tag."""
        config = facts.texts(self.order.config.model_dump(mode="json"))
        changed = {key: value for key, value in config.items() if known.get(key, value) != value}
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
        }
        send(client, run_id, params={key: value for key, value in config.items() if key not in known}, tags=tags)

    def _parent(self, client: MlflowClient) -> tuple[str, str]:
        """The ids of the study's experiment and parent run: the newest of that name on the same data."""
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        wanted = f"tags.`{STUDY}` = '{self.came_from.study}'"
        if self.came_from.data_hash:
            wanted += f" and params.`data.hash` = '{self.came_from.data_hash}'"
        found = client.search_runs(experiments, wanted, max_results=1, order_by=["attributes.start_time DESC"])
        if not found:
            raise _NoStudyError(f"it has no study {self.came_from.study} of the data that the config names")
        return found[0].info.experiment_id, found[0].info.run_id


class _NoStudyError(UserError):
    """Waiting would not bring it."""
