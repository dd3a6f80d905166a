"""A study's folder, `<storage>/<study>/`: one driver at a time, one spec for good, weights of the best trials only."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.errors import UserError
from search.spec.study_spec import MAY_CHANGE, StudySpec
from search.study.journal import ENDED, NAME, Record
from search.study.scores import ranked
from search.study.study import Study, Trial

BEST = 3  # trials that keep their weights; beside them the best of each compared value
JOB = "NANOSWEEP_JOB"  # in the environment of a driver that is a job on a cluster: the job's id
_LOCK, _HOLDER = "driver.lock", "driver.json"


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """The folder, made if need be, for this driver alone. One without a journal at the end leaves nothing behind.

    The lock is the system's own (flock): that of a driver which died, however it died, is free at once.
    Raises UserError when the folder cannot be written, or saying who holds it.
    """
    from filelock import FileLock, Timeout

    new_folders: list[Path] = []
    lock = FileLock(folder / _LOCK)
    try:
        new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        (folder / _HOLDER).write_text(json.dumps(_me()))
    except Timeout:
        raise UserError(f"{folder} is being run by {_holder(folder)}; wait for it, or stop it there") from None
    except OSError as error:
        _remove_empty(folder, new_folders)
        raise UserError(f"storage: {folder} cannot be written: {error.strerror}; give another `storage`") from None
    try:
        yield
    finally:
        (folder / _HOLDER).unlink(missing_ok=True)
        if not (folder / NAME).exists():
            (folder / _LOCK).unlink(missing_ok=True)  # still held: a rival's new file is another one
        lock.release()
        _remove_empty(folder, new_folders)


def _me() -> dict[str, Any]:
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    return {**me, "job": os.environ.get(JOB)}


def _holder(folder: Path) -> str:
    try:
        me = json.loads((folder / _HOLDER).read_text())
        job = f"job {me['job']}, " if me.get("job") else ""
        return f"{job}process {me['pid']} on {me['host']} since {me['since']}"
    except (OSError, ValueError, KeyError):
        return "another process, which has only just begun"


def driven_by(folder: Path) -> str | None:
    """Who runs the study just now, as far as can be seen without its lock; None for nobody."""
    try:
        me = json.loads((folder / _HOLDER).read_text())
        if me["host"] == socket.gethostname():
            os.kill(me["pid"], 0)  # asks whether there is such a process; one that was killed left its file
        return f"process {me['pid']} on {me['host']}"
    except PermissionError:
        return "another user's process"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_empty(folder: Path, new_folders: list[Path]) -> None:
    if not (folder / NAME).exists():
        for path in new_folders:  # from the folder upwards; one that is not empty stops at itself
            with suppress(OSError):
                path.rmdir()


def write_spec(spec: StudySpec) -> None:
    """spec.yaml: the spec as run, defaults left out. For people; the journal's header is what is compared."""
    import yaml

    body = yaml.safe_dump(spec.model_dump(mode="json", exclude_unset=True), sort_keys=False, allow_unicode=True)
    path = spec.folder / "spec.yaml"
    partial = path.with_name(path.name + ".partial")
    partial.write_text(
        f"# the spec of this study, as run; {', '.join(MAY_CHANGE)} may change\n{body}", encoding="utf-8"
    )
    partial.replace(path)


def trial_folder(folder: Path, number: int) -> Path:
    return folder / "trials" / str(number)


class Weights:
    """Keeps the weights of the best trials, of the best of each compared value, of finalists' runs, and of those that
    are not over; deletes the others' as they end.

    A listener of the ledger: `ledger.listeners.append(Weights(folder, ledger.study))`.
    """

    listener_name = "the keeper of weights"

    def __init__(self, folder: Path, study: Study) -> None:
        self.folder, self.study = folder, study
        self._kept: set[int] = set()
        for trial in study.trials.values():
            self._ended(trial)

    def __call__(self, record: Record) -> None:
        if record["record"] == "status":
            self._ended(self.study.trials[record["trial"]])

    def _ended(self, trial: Trial) -> None:
        if trial.status not in ENDED or trial.of is not None:
            return  # a finalist's run keeps its weights: `nanosweep finalize` scores them
        candidates = self._kept | {trial.number}
        order = ranked(self.study, (self.study.trials[number] for number in candidates))
        of_each = {kept.group: kept.number for kept in reversed(order)}
        self._kept = {kept.number for kept in order[:BEST]} | set(of_each.values())
        for number in candidates - self._kept:
            for file in trial_folder(self.folder, number).glob("*.pt*"):  # and what a killed worker left half written
                with suppress(OSError):  # a file that will not go must not end the study
                    file.unlink()
