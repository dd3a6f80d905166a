"""`compare: loss`: the values of one parameter, each with a search of its own within one study. Pure.

A search for the best trial soon abandons a value that begins badly and then has little evidence on it. With `compare`
the values take turns, so that each gets the same number of trials; a group is the trials of one value, and during
training its trials are compared only with one another.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from search.spec.points import Point
from search.spec.study_spec import StudySpec
from search.study.scores import distinct
from search.study.study import Study


def label(value: Any) -> str:
    """The group name of a value.

    >>> label("mse"), label({"n_embd": 384, "n_head": 6})
    ('mse', 'n_embd=384 n_head=6')
    """
    return " ".join(f"{key}={item}" for key, item in value.items()) if isinstance(value, dict) else str(value)


def values(spec: StudySpec) -> dict[str, Any]:
    """The compared values by group name; empty without `compare`."""
    return {} if spec.compare is None else {label(value): value for value in spec.space[spec.compare].choice or []}


def group_of(spec: StudySpec, point: Point) -> str:
    """The group name of a point; "" without `compare`."""
    return "" if spec.compare is None else label(point[spec.compare])


def turn(spec: StudySpec, study: Study, groups: Sequence[str] = ()) -> Any:
    """The compared value of the next trial: one with the fewest distinct trials, start points included.

    The order within a round of values is shuffled by the seed, differently in each round. groups: the names of the
    values that have a configuration left; default all.
    """
    counts = Counter(group_of(spec, trial.point) for trial in distinct(study, study.searched))
    values_by_group = values(spec)
    return values_by_group[_next(spec.seed, groups or list(values_by_group), counts)]


def in_turn(spec: StudySpec, points: Sequence[Point], begun: Sequence[Point] = ()) -> list[Point]:
    """The points of a grid, reordered so that the compared values take turns; unchanged without `compare`.

    begun: points that come before them and count as trials.
    """
    if spec.compare is None:
        return list(points)
    waiting: dict[str, list[Point]] = {}
    for point in points:
        waiting.setdefault(group_of(spec, point), []).append(point)
    count = Counter(group_of(spec, point) for point in begun)
    order: list[Point] = []
    while waiting:
        group = _next(spec.seed, list(waiting), count)
        count[group] += 1
        order.append(waiting[group].pop(0))
        if not waiting[group]:
            del waiting[group]
    return order


def _next(seed: int, groups: Sequence[str], count: Mapping[str, int]) -> str:
    fewest = min(count.get(group, 0) for group in groups)
    order = random.Random(f"turn {seed} {fewest}").sample(sorted(groups), len(groups))
    return next(group for group in order if count.get(group, 0) == fewest)
