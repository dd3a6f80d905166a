"""Trials at each rung: how many reached it, how many it stopped or paused, how many continued. Pure.

    rows = survival(study)      # one row per rung, the lowest first, then one for the end of training

Each searched trial leaves in exactly one row; the trials that enter a row are those that continued from the row before.
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
    """The trials that entered the stretch before one rung, or before the end of training, and how they left it.

    rung: nominal tokens, None for the end. left: trial numbers by how they left. Before the rung: broke, early (its
    own early_stop), going (not ended yet). At the rung: stopped, paused. At the end: done. value: the objective of
    each trial at the rung; cutoff: the worst value that would have continued, at the time of the decision.
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
    def continued(self) -> int:
        return self.entered - sum(map(len, self.left.values()))


def survival(study: Study) -> list[Row]:
    """One row per rung and one for the end; without rungs the end alone."""
    rungs = list(study.header.rungs)
    rows = [Row(rung) for rung in [*rungs, None]]
    places = [_find_exit(trial, rungs) for trial in study.searched]
    for trial, (left_at, way) in zip(study.searched, places, strict=True):
        rows[left_at].left[way].append(trial.number)
    for at, row in enumerate(rows):
        row.entered = sum(left_at >= at for left_at, _ in places)
        for trial in study.searched if row.rung is not None else []:
            _record_value(study, trial, row)
    return rows


def _find_exit(trial: Trial, rungs: list[int]) -> tuple[int, str]:
    """The index of the row in which a trial left, and how."""
    reached = max([*(r["rung"] or 0 for r in trial.reports), *(d["rung"] for d in trial.decisions)], default=0)
    passed = sum(rung <= reached for rung in rungs)
    if trial.status in ("pruned", "paused") and passed:
        return passed - 1, "stopped" if trial.status == "pruned" else "paused"
    if trial.status == "completed" or (trial.status in FULL and passed == len(rungs)):
        return len(rungs), "done"
    way = "broke" if trial.status in BROKEN else "early" if trial.status in FULL else "going"
    return passed, way


def _record_value(study: Study, trial: Trial, row: Row) -> None:
    decided = [decision for decision in trial.decisions if decision["rung"] == row.rung]
    target = objective_of(study)
    reported = [r["metrics"].get(target.name) for r in trial.reports if r["rung"] == row.rung]
    values = [*(target.rank(decision["value"]) for decision in decided), *reported]
    finite = [value for value in values if isinstance(value, int | float) and math.isfinite(value)]
    if finite:
        row.value[trial.number] = float(finite[0])
    if decided and isinstance(decided[-1]["cutoff"], int | float):
        row.cutoff[trial.number] = target.rank(float(decided[-1]["cutoff"]))
