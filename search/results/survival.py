"""What the rungs did: how many trials came to each, how many it stopped, how many went on. Pure.

    found = survival(study)     # a row for each rung, the lowest first, and the end of a trial as the last

Each trial of the search leaves in exactly one place; what enters a row is what went on from the one before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from search.study.journal import FULL
from search.study.scores import BROKEN, objective_of
from search.study.study import Study, Trial

WAYS = ("broke", "early", "going", "stopped", "paused", "done")


@dataclass
class Row:
    """One rung (nominal tokens), or the end (None), and the trials that were on their way to it.

    left: trials by how they left here. broke, early (its own early_stop), going (it has not ended): on the way, never
    having come to the rung; stopped, paused: by the rung; done: at full length. value, cutoff: of each trial decided
    on here the objective, and the worst value that would have gone on.
    """

    rung: int | None
    entered: int = 0
    left: dict[str, list[int]] = field(default_factory=lambda: {way: [] for way in WAYS})
    value: dict[int, float] = field(default_factory=dict)
    cutoff: dict[int, float] = field(default_factory=dict)

    @property
    def reached(self) -> int:
        return self.entered - sum(len(self.left[way]) for way in ("broke", "early", "going"))

    @property
    def went_on(self) -> int:
        return self.entered - sum(map(len, self.left.values()))


def survival(study: Study) -> list[Row]:
    """A row per rung and one for the end; with no rungs the end alone."""
    rungs = list(study.header.rungs)
    found = [Row(rung) for rung in [*rungs, None]]
    places = [_place(trial, rungs) for trial in study.searched]
    for trial, (left_at, way) in zip(study.searched, places, strict=True):
        found[left_at].left[way].append(trial.number)
    for at, row in enumerate(found):
        row.entered = sum(left_at >= at for left_at, _ in places)
        for trial in study.searched if row.rung is not None else []:
            _value(study, trial, row)
    return found


def _place(trial: Trial, rungs: list[int]) -> tuple[int, str]:
    """Where a trial left: the place of its row, and how."""
    reached = max([*(r["rung"] or 0 for r in trial.reports), *(d["rung"] for d in trial.decisions)], default=0)
    passed = sum(rung <= reached for rung in rungs)
    if trial.status in ("pruned", "paused") and passed:
        return passed - 1, "stopped" if trial.status == "pruned" else "paused"
    if trial.status == "completed" or (trial.status in FULL and passed == len(rungs)):
        return len(rungs), "done"
    way = "broke" if trial.status in BROKEN else "early" if trial.status in FULL else "going"
    return passed, way


def _value(study: Study, trial: Trial, row: Row) -> None:
    decided = [decision for decision in trial.decisions if decision["rung"] == row.rung]
    target = objective_of(study)
    reported = [r["metrics"].get(target.name) for r in trial.reports if r["rung"] == row.rung]
    values = [*(target.rank(decision["value"]) for decision in decided), *reported]
    finite = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if finite:
        row.value[trial.number] = float(finite[0])
    if decided and isinstance(decided[-1]["cutoff"], int | float):
        row.cutoff[trial.number] = target.rank(float(decided[-1]["cutoff"]))
