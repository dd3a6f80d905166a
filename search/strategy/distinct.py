"""Which configurations of a space have been run, and which are left. Pure.

All trials of a search train with one seed, on the same data: a second trial of a configuration would repeat the first
one to the last bit (on a CPU). So a configuration that a trial of the study has is known, whatever became of the trial:
one that runs, waits or was interrupted will bring its value; one that completed, diverged, ran out of memory or failed
would end in the same way again (`nanosweep run` continues the interrupted ones itself, with --retry-failed the failed
ones); one that was stopped or paused at a rung would come to it with the same value, which would count there twice.

Known, too, is a configuration that an earlier study (`warm_start`) trained to this study's full length, or until it
diverged, where the whole config is equal. A point of `start` runs here all the same.

Points are compared by their configs, without the keys that have no effect there: two points may differ and train the
same model (two mappings of a linked parameter, one of which names what the base has).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from data.errors import UserError
from search.spec.parameter import Parameter
from search.spec.points import Point, candidates, fields, number_kind, points, target
from search.spec.space import configuration, configure
from search.spec.start_points import known_points
from search.spec.study_spec import StudySpec
from search.study.study import Study
from trainer.config import TrainConfig

MOST = 10_000  # points that are listed or counted
_ANY = object()  # any number of a range of floats, of which there is always another one


class Distinct:
    """The distinct configurations of one spec. base: the study's base config, as in its header."""

    def __init__(self, spec: StudySpec, base: TrainConfig) -> None:
        self._spec, self._base = spec, base
        self._start = known_points(spec)
        self._keys: dict[str, str | None] = {}

    def key(self, point: Point) -> str | None:
        """A text that is equal for points of equal configurations; None where no config allows the point, or where it
        is of another space."""
        written = json.dumps(point, sort_keys=True)
        if written not in self._keys:
            try:
                self._keys[written] = configuration(
                    configure(self._base, self._spec.space, point).model_dump(mode="json")
                )
            except (UserError, KeyError):
                self._keys[written] = None
        return self._keys[written]

    def taken(self, study: Study) -> set[str]:
        """The keys of the configurations that trials of the study have."""
        return {key for trial in study.searched if (key := self.key(trial.point)) is not None}

    def taken_before(self, study: Study) -> set[str]:
        """The keys of the configurations of which an earlier study's trials say how they end in this one.

        Their precision is no difference unless it is searched: `dtype: auto` is settled anew for each study.
        """
        told = [trial for trial in study.earlier_trials if trial.objective is not None or trial.status == "diverged"]
        searched = any("dtype" in fields(name, parameter) for name, parameter in self._spec.space.items())
        same = {} if searched else {"dtype": self._base.dtype}
        return {configuration({**trial.config, **same}) for trial in told if trial.config is not None}

    def left(self, taken: Collection[str], fixed: Mapping[str, Any] | None = None) -> Iterator[Point]:
        """The points whose configurations are not in `taken`; of a range of floats, which is never used up, the points
        without its value. fixed: the values that the points have."""
        for point in self._all(fixed or {}):
            if _is_endless(point):
                yield {name: value for name, value in point.items() if value is not _ANY}
            elif (key := self.key(point)) is not None and key not in taken:
                yield point

    def exhausted(self, study: Study) -> bool:
        """Whether no configuration is left, so that no new trial can begin."""
        if any(map(_is_endless, itertools.islice(self._all({}), 1))):
            return False  # as most spaces are: without a look at the trials
        own = self.taken(study)
        to_start = self._start[len(study.searched) :]
        return not any(
            next(self.left(known, fixed), None) is not None
            for known, fixed in [*((own, point) for point in to_start), (own | self.taken_before(study), {})]
        )

    def count(self, most: int = MOST, known: Collection[str] = ()) -> int | None:
        """The number of distinct configurations that are not known; None where there are more than `most`, or there is
        no end of them."""
        keys: set[str] = set()
        for point in self._all({}):
            if _is_endless(point) or len(keys) > most:
                return None
            if (key := self.key(point)) is not None and key not in known:
                keys.add(key)
        return len(keys) if len(keys) <= most else None

    def _all(self, fixed: Mapping[str, Any]) -> Iterator[Point]:
        space = self._spec.space
        values = {name: [fixed[name]] if name in fixed else _values(name, space[name]) for name in space}
        outside = self._start if self._spec.sampler == "grid" else []  # a grid's start points may lie outside of it
        return itertools.chain(outside, points(space, values))


def _is_endless(point: Point) -> bool:
    return any(value is _ANY for value in point.values())


def _values(name: str, parameter: Parameter) -> Sequence[Any]:
    if parameter.choice is not None:
        return parameter.choice
    if number_kind(target(name, parameter)) == "float":
        return [_ANY]
    low, high = candidates(name, parameter)
    return range(low, high + 1)
