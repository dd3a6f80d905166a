"""Failed trials that begin again: those that failed alike, all of them, at the start of a study; and others on demand.

A cause common to all trials (no weights in the directory of `init_from`, a full GPU) is no result of any of them.
"""

from __future__ import annotations

import re

from search.spec.points import fields
from search.study.journal import ENDED
from search.study.study import Study, Trial
from trainer.config import TrainConfig
from trainer.keys import memory_keys

BROKE = ("failed", "out_of_memory")  # by an error, which may be mended; a diverged trial would diverge again
ENOUGH = 3  # trials that fail alike at the start: the study stops


def failed_alike(study: Study) -> list[int]:
    """The trials that ended, if all of them failed with one and the same cause before any trial reported; else none.

    Numbers within a cause do not count (a process, an address). Memory that did not suffice is a cause common to all
    trials only where the space varies nothing that memory depends on.
    """
    ended = [trial for trial in study.trials.values() if trial.status in ENDED]
    if any(trial.reports for trial in study.trials.values()) or len({_kind(study, trial) for trial in ended}) != 1:
        return []
    return [trial.number for trial in ended if _kind(study, trial)]


def common_cause(study: Study) -> str:
    """What is to be said of `failed_alike`, without an end; "" where there are none."""
    if not (numbers := failed_alike(study)):
        return ""
    cause = study.trials[numbers[-1]].cause
    which = "the first trial failed" if len(numbers) == 1 else f"the first {len(numbers)} trials failed alike"
    return f"{which}, before any report: {cause}. That counts in no budget: mend it"


def begin_again(study: Study, retry_failed: bool = False) -> list[int]:
    """The failed trials that the next driver begins again. retry_failed: all of them, whatever their causes."""
    if retry_failed:
        return [trial.number for trial in study.trials.values() if trial.status in BROKE]
    return failed_alike(study)


def _kind(study: Study, trial: Trial) -> str:
    """A text that is equal for failures of one kind; "" for an end that may be due to the trial's point."""
    if trial.status == "failed":
        return re.sub(r"0x[0-9a-f]+|\d+", "0", f"failed: {trial.cause}")
    space = study.header.spec.space
    searched = {field for name, parameter in space.items() for field in fields(name, parameter)}
    return trial.status if trial.status == "out_of_memory" and searched.isdisjoint(memory_keys(TrainConfig)) else ""
