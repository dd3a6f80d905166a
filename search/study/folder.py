"""A study's folder, `<storage>/<study>/`: the driver's lock, spec.yaml, and which trials keep their weights."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from data.errors import UserError
from search.spec.study_spec import MAY_CHANGE, StudySpec
from search.study.failures import BROKE
from search.study.journal import ENDED, NAME, Record
from search.study.scores import ranked
from search.study.study import Study, Trial
from trainer.folder_lock import holder_of, locked

BEST = 3  # trials that keep their weights, in addition to the best of each compared value
JOB = "NANOSWEEP_JOB"  # environment variable of a driver that runs as a job on a cluster: the job's id
_LOCK = "driver"  # driver.lock, and driver.json: who holds it


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Create the study's folder if needed and hold its lock. A new folder without a journal at the end is removed.

    Raises UserError when the folder cannot be written, or when another driver holds the lock.
    """
    with ExitStack() as stack:
        try:
            busy, advice = "is being run by", "wait for it, or stop it there"
            stack.enter_context(locked(folder, _LOCK, [NAME], busy, advice, os.environ.get(JOB, "")))
        except OSError as error:
            problem = f"storage: {folder} cannot be written: {error.strerror}; give another `storage`"
            raise UserError(problem, kind="cannot_write", keys="storage") from None
        yield


def driven_by(folder: Path) -> str | None:
    """The driver that runs the study at present, as far as can be seen without its lock; None without one."""
    return holder_of(folder, _LOCK)


def write_spec(spec: StudySpec) -> None:
    """Write spec.yaml, the spec as run without defaults. For people only; a resume compares the journal's header."""
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
    """Delete the weights of trials when they end, except the best ones.

    Kept are the weights of the BEST best trials, of the best trial of each compared value, of finalists' runs, of
    trials that have not ended, and of those that failed and may begin again (`run --retry-failed`).
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
        if trial.status not in ENDED or trial.status in BROKE or trial.of is not None:
            return  # a finalist's run keeps its weights: `nanosweep finalize` scores them
        candidates = self._kept | {trial.number}
        order = ranked(self.study, (self.study.trials[number] for number in candidates))
        of_each = {kept.group: kept.number for kept in reversed(order)}
        self._kept = {kept.number for kept in order[:BEST]} | set(of_each.values())
        for number in candidates - self._kept:
            # the pattern includes partial files of a killed worker
            for file in trial_folder(self.folder, number).glob("*.pt*"):
                with suppress(OSError):  # a file that cannot be deleted must not end the study
                    file.unlink()
