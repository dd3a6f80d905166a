"""Which point comes next, by Optuna's ask and tell. No Ray.

Each proposal is a function of the spec, its seed, the trial's number and the study as it stands: Optuna's study
is made anew from ours for every ask, so that it can be replayed from the journal and a resumed search goes on as
if it had never stopped. What Optuna is told: the logarithm of the perplexity (bits per byte as they are); of
pruned trials that they were pruned, with their value at each rung; of running ones that they run (so that
parallel workers don't get the same point); of trials that diverged, failed or ran out of memory a value just
worse than the worst, and that they broke a constraint: the samplers rank them last and avoid their region.

grid    every combination of choices once, in an order shuffled by the seed: sorted, ASHA would compare the
        neighbours in one corner first. Parameters that do not exist at a point make no copies of it.
random  each point independent of all others.
tpe     multivariate, with one density for each group of parameters that exist together.
gp      a Gaussian process over the parameters that every point has; conditional ones are drawn at random.
        It learns from trials that ran to their end only: pruned trials tell it nothing.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from search.journal import ENDED
from search.points import Point, candidates, exists, number_kind, ordered, points
from search.spec import Parameter, StudySpec
from search.study import Study, Trial

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial


class Sampler:
    """Proposes the points of one spec."""

    def __init__(self, spec: StudySpec) -> None:
        self._spec = spec
        self._space = spec.space
        self._names = ordered(spec.space)
        self._grid: list[Point] = []
        if spec.sampler == "grid":
            self._grid = list(points(spec.space, {name: candidates(name, p) for name, p in spec.space.items()}))
            random.Random(spec.seed).shuffle(self._grid)

    def ask(self, number: int, study: Study) -> Point | None:
        """The point of trial `number`, given all that the study knows; None when the grid has no more."""
        if self._spec.sampler == "grid":
            return self._grid[number] if number < len(self._grid) else None
        with _quiet():
            import optuna

            seed = int(np.random.SeedSequence([self._spec.seed, number]).generate_state(1)[0])
            asked = optuna.create_study(sampler=self._optuna(seed))
            if self._spec.sampler != "random":
                asked.add_trials(self._told(study))
            trial = asked.ask()
            point: Point = {}
            for name in self._names:
                if exists(self._space, name, point):
                    point[name] = _suggest(trial, name, self._space[name])
        return {name: point[name] for name in self._space if name in point}

    def _optuna(self, seed: int) -> BaseSampler:
        from optuna.samplers import GPSampler, RandomSampler, TPESampler

        if self._spec.sampler == "gp":
            return GPSampler(seed=seed, warn_independent_sampling=False)
        if self._spec.sampler == "tpe":
            return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
        return RandomSampler(seed=seed)

    def _told(self, study: Study) -> list[FrozenTrial]:
        """Our trials as Optuna's, in the order of their numbers."""
        from optuna.trial import TrialState, create_trial

        trials = [study.trials[number] for number in sorted(study.trials)]
        scores = {trial.number: _scores(trial, self._spec.objective) for trial in trials}
        known = [value for by_tokens in scores.values() for value in by_tokens.values()] or [0.0]
        # worse by a little, whatever the scale: a large penalty would flatten all other differences for the GP
        worst = max(known) + 0.05 * (max(known) - min(known)) + 1e-3
        broken = {t.number for t in trials if t.status in ENDED and t.status != "pruned" and t.final is None}
        # the GP divides by zero where every trial that ended broke; where none did there is nothing to learn
        constrained = broken and (self._spec.sampler == "tpe" or any(trial.final for trial in trials))
        distributions = {name: _distribution(name, self._space[name]) for name in self._names}
        told = []
        for trial in trials:
            facts: dict[str, Any] = {"state": TrialState.COMPLETE}
            if trial.number in broken:
                facts["value"] = worst
            elif trial.final is not None:
                facts["value"] = score(trial.final["metrics"], self._spec.objective)
            elif trial.status == "pruned":
                facts = {"state": TrialState.PRUNED, "intermediate_values": scores[trial.number]}
            else:
                facts = {"state": TrialState.RUNNING}
            if constrained and trial.status in ENDED:
                facts["constraints"] = {"ended well": 1.0 if trial.number in broken else -1.0}
            params = {name: _external(self._space[name], value) for name, value in trial.point.items()}
            told.append(create_trial(params=params, distributions={n: distributions[n] for n in params}, **facts))
        return told


def score(metrics: dict[str, float], objective: str) -> float:
    """What is minimised: log-perplexity, or bits per byte."""
    return math.log(metrics[objective]) if objective == "val_perplexity" else metrics[objective]


def _scores(trial: Trial, objective: str) -> dict[int, float]:
    """A trial's finite scores at rungs and at its end, by tokens (nominal ones at a rung)."""
    found = {}
    for report in trial.reports:
        at = report["tokens"] if report["final"] else report["rung"]
        if at is not None and math.isfinite(report["metrics"].get(objective, math.nan)):
            found[at] = score(report["metrics"], objective)
    return found


def _distribution(name: str, parameter: Parameter) -> BaseDistribution:
    """A choice is told to Optuna by the positions of its values: they may be mappings, or of mixed types."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choice is not None:
        return CategoricalDistribution(tuple(range(len(parameter.choice))))
    low, high = candidates(name, parameter)
    kind = IntDistribution if number_kind(name) == "int" else FloatDistribution
    return kind(low, high, log=parameter.log is not None)


def _suggest(trial: Any, name: str, parameter: Parameter) -> Any:
    if parameter.choice is not None:
        return parameter.choice[trial.suggest_categorical(name, tuple(range(len(parameter.choice))))]
    low, high = candidates(name, parameter)
    suggest = trial.suggest_int if number_kind(name) == "int" else trial.suggest_float
    return suggest(name, low, high, log=parameter.log is not None)


def _external(parameter: Parameter, value: Any) -> Any:
    """The value as Optuna knows it. A choice's is compared as the journal writes it, so that 1 is not true."""
    if parameter.choice is None:
        return value
    return [json.dumps(option, sort_keys=True) for option in parameter.choice].index(json.dumps(value, sort_keys=True))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's line for every study, its hint at a faster solver, its warning that `group` is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
