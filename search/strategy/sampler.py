"""The sampler: proposes the next point through Optuna's ask-and-tell interface. No Ray.

Each proposal is a function of the spec, its seed, the trial's number and the state of the study: every ask builds a new
Optuna study from ours, so that proposals can be replayed from the journal and a resumed search continues as if it had
never stopped. The points of `start` come first, in their order; parameters that one leaves out are proposed.

The Optuna study gets the trials of an earlier study (`warm_start`), then ours. Values are the objective on the
comparison scale, lower is better (log-perplexity; bits per byte unchanged). By the status of the trial:

pruned, paused   PRUNED, with its value at each rung.
running          RUNNING: TPE counts it as bad (constant liar), the GP conditions its proposal on it.
failed, diverged, out of memory
                 COMPLETE with a value slightly worse than the worst at full length and a violated constraint: the
                 samplers rank it last and avoid its region.

All trials train with the same seed, so a second trial of a configuration would bring no information. In discrete
spaces every sampler proposes known ones again (the GP running ones too). Such a proposal is repeated with other seeds;
where all of them are known, one of the configurations that are left is drawn, and once none is left the search ends
(search.strategy.distinct).

With `compare: loss` the losses take turns and each is a search of its own: a proposal uses only the trials of its loss.
From the trials of all losses TPE would count the best quarter overall as good; a loss that trails has no trial in it,
and its parameters would be drawn at random to the end (tests/test_search_groups.py).

grid    every configuration of choices once, in an order shuffled by the seed: in sorted order ASHA would compare
        neighbours in one corner first.
random  independent points.
tpe     multivariate TPE, with one density for each group of parameters that exist together (Optuna's `group`).
gp      a Gaussian process over the parameters that every point has; conditional ones are drawn at random.
        It learns only from trials at full length, not from pruned ones.
"""

from __future__ import annotations

import itertools
import json
import math
import random
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from search.spec.objective import OBJECTIVES, Objective
from search.spec.parameter import Parameter
from search.spec.points import Point, candidates, exists, number_kind, ordered, points, target
from search.spec.start_points import known_points
from search.spec.study_spec import StudySpec
from search.strategy.distinct import MOST, Distinct
from search.strategy.groups import in_turn, turn, values
from search.study.journal import INACTIVE
from search.study.scores import BROKEN
from search.study.study import EarlierTrial, Study, Trial
from trainer.config import TrainConfig

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler
    from optuna.trial import FrozenTrial

# for a known configuration: the attempts with the sampler, then at random, which keeps the distribution of a range
_AGAIN, _AT_RANDOM = 4, 100
# random startup trials of each compared value. With Optuna's 10, a value with 12 trials would hardly be tuned; on
# quadratic bowls of 1 to 3 parameters 5 did as well as any number from 3 to 10 after 6, 12 and 24 trials
_FIRST = 5


class Sampler:
    """Proposes the points of one spec. base: the study's base config, as in its header."""

    def __init__(self, spec: StudySpec, base: TrainConfig) -> None:
        self._spec = spec
        self._space = spec.space
        self._names = ordered(spec.space)
        self._start = known_points(spec)
        self._distinct = Distinct(spec, base)
        self._grid: list[Point] = []
        if spec.sampler == "grid":
            grid = list(points(spec.space, {name: candidates(name, p) for name, p in spec.space.items()}))
            random.Random(spec.seed).shuffle(grid)
            others = [point for point in grid if point not in self._start]
            self._grid = [*self._start, *in_turn(spec, others, self._start)]

    def ask(self, number: int, study: Study) -> Point | None:
        """Propose the point of trial `number` from the state of the study; None when every configuration has run."""
        own = self._distinct.taken(study)
        if self._spec.sampler == "grid":
            return next((point for point in self._grid if self._distinct.key(point) not in own), None)
        taken = own | self._distinct.taken_before(study)
        if number < len(self._start):  # it runs here, whatever an earlier study knows of it
            fixed = self._fixed(self._start[number], study, own)
            if fixed is not None:
                return self._new(number, study, fixed, own)
        fixed = self._fixed({}, study, taken)
        return None if fixed is None else self._new(number, study, fixed, taken)

    def _fixed(self, start: Point, study: Study, known: set[str]) -> Point | None:
        """The values set in advance: of a start point, and the compared value whose turn it is. None where no
        configuration with them is left."""
        compared = self._spec.compare
        if compared is None or compared in start:
            return start if self._has_left(start, known) else None
        groups = [
            group for group, value in values(self._spec).items() if self._has_left({**start, compared: value}, known)
        ]
        return {**start, compared: turn(self._spec, study, groups)} if groups else None

    def _has_left(self, fixed: Point, known: set[str]) -> bool:
        return next(self._distinct.left(known, fixed), None) is not None

    def _new(self, number: int, study: Study, fixed: Point, known: set[str]) -> Point:
        """Propose a point with the values in `fixed` whose configuration is not known."""
        with quiet():
            history = [] if self._spec.sampler == "random" else self._history(study, fixed)
            for attempt in range(_AGAIN + _AT_RANDOM):
                # a random draw needs no history: Optuna would copy each of 10,000 trials for each of 100 attempts
                kind, told = (self._spec.sampler, history) if attempt < _AGAIN else ("random", [])
                point = self._propose(number, kind, told, fixed, *([attempt] if attempt else []))
                key = self._distinct.key(point)
                if key is not None and key not in known:
                    return point
            rest = list(itertools.islice(self._distinct.left(known, fixed), MOST))
            chosen = random.Random(f"left {self._spec.seed} {number}").choice(rest)
            return self._propose(number, "random", [], chosen, _AGAIN + _AT_RANDOM)

    def _propose(self, number: int, kind: str, history: list[FrozenTrial], fixed: Point, *attempt: int) -> Point:
        """Ask Optuna for a point. fixed: values set in advance; attempt: varies the seed of a repeated proposal."""
        import optuna

        seed = int(np.random.SeedSequence([self._spec.seed, number, *attempt]).generate_state(1)[0])
        optuna_study = optuna.create_study(sampler=_optuna(kind, seed, alone=self._spec.compare is None))
        optuna_study.add_trials(history)
        if fixed:
            optuna_study.enqueue_trial({name: external(self._space[name], value) for name, value in fixed.items()})
        trial = optuna_study.ask()
        point: Point = {}
        for name in self._names:
            if exists(self._space, name, point):
                point[name] = _suggest(trial, name, self._space[name])
        return {name: point[name] for name in self._space if name in point}

    def _history(self, study: Study, fixed: Point | None = None) -> list[FrozenTrial]:
        """The trials of an earlier study, then ours by number, as Optuna trials.

        With `compare` only those of the value in `fixed`.
        """
        from optuna.trial import TrialState, create_trial

        objective = OBJECTIVES[self._spec.objective]
        observations = [_of_earlier(trial, objective) for trial in study.earlier_trials]
        observations += [_own(trial, objective) for trial in study.searched]
        if fixed is not None and (compared := self._spec.compare) is not None:
            observations = [trial for trial in observations if trial.point[compared] == fixed[compared]]
        # values at full length, where there are any: values at rungs are worse, as training is not over
        values = [trial.value for trial in observations if trial.value is not None]
        values = values or [value for trial in observations for value in trial.scores.values()] or [0.0]
        # slightly worse than the worst, relative to the spread: a large penalty would flatten all others for the GP
        worst = max(values) + 0.05 * (max(values) - min(values)) + 1e-3
        # without a complete trial the GP divides by zero; without a broken one the constraint has no information
        states = {trial.state for trial in observations}
        is_constrained = "broken" in states and (self._spec.sampler == "tpe" or "complete" in states)
        distributions = {name: distribution(name, self._space[name]) for name in self._names}
        optuna_trials = []
        for trial in observations:
            outcome: dict[str, Any] = {"state": TrialState.RUNNING}
            if trial.state == "pruned":
                outcome = {"state": TrialState.PRUNED, "intermediate_values": trial.scores}
            elif trial.state != "running":
                outcome = {"state": TrialState.COMPLETE, "value": worst if trial.value is None else trial.value}
            if is_constrained and trial.state != "running":
                outcome["constraints"] = {"ended well": 1.0 if trial.state == "broken" else -1.0}
            params = {name: external(self._space[name], value) for name, value in trial.point.items()}
            optuna_trials.append(
                create_trial(params=params, distributions={n: distributions[n] for n in params}, **outcome)
            )
        return optuna_trials


State = Literal["complete", "pruned", "broken", "running"]


@dataclass(frozen=True)
class _Observation:
    """A trial as the sampler uses it. scores: at rungs and at the end, by tokens; value: at full length, or None."""

    point: Point
    state: State
    scores: dict[int, float]
    value: float | None


def _optuna(kind: str, seed: int, alone: bool) -> BaseSampler:
    """Optuna's sampler. alone: whether one search gets all trials; with `compare` each value's search gets a share."""
    from optuna.samplers import GPSampler, RandomSampler, TPESampler

    if kind == "gp":
        return GPSampler(seed=seed, warn_independent_sampling=False)
    if kind == "tpe":
        first: dict[str, Any] = {} if alone else {"n_startup_trials": _FIRST}
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True, **first)
    return RandomSampler(seed=seed)


def _own(trial: Trial, objective: Objective) -> _Observation:
    scores = {tokens: objective.compared(value) for tokens, value in objectives(trial, objective.name).items()}
    last = math.nan if trial.final is None else trial.final["metrics"].get(objective.name, math.nan)
    value = objective.compared(last) if math.isfinite(last) else None
    state: State = "complete"
    if trial.status not in INACTIVE:
        state = "running"
    elif trial.status in ("pruned", "paused"):
        state = "pruned"
    elif value is None:
        state = "broken"
    return _Observation(trial.point, state, scores, value)


def _of_earlier(trial: EarlierTrial, objective: Objective) -> _Observation:
    scores = {tokens: objective.compared(value) for tokens, value in trial.scores.items()}
    value = None if trial.objective is None else objective.compared(trial.objective)
    return _Observation(trial.point, told_as(trial.status, trial.objective), scores, value)


def told_as(status: str, value: float | None) -> State:
    """The state of an earlier study's trial in this study. value: its objective at this study's full length, or None.

    A trial that neither reached full length nor broke counts as pruned: it is never resumed here.
    """
    if status in BROKEN:
        return "broken"
    return "pruned" if value is None else "complete"


def objectives(trial: Trial, name: str) -> dict[int, float]:
    """A trial's finite values of the objective `name` at rungs and at the end, by tokens (nominal ones at a rung)."""
    values = {}
    for report in trial.reports:
        at = report["tokens"] if report["final"] else report["rung"]
        if at is not None and math.isfinite(report["metrics"].get(name, math.nan)):
            values[at] = report["metrics"][name]
    return values


def distribution(name: str, parameter: Parameter) -> BaseDistribution:
    """The Optuna distribution of a parameter; a choice is represented by indices, as its values may be mappings."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.choice is not None:
        return CategoricalDistribution(tuple(range(len(parameter.choice))))
    low, high = candidates(name, parameter)
    kind = IntDistribution if number_kind(target(name, parameter)) == "int" else FloatDistribution
    return kind(low, high, log=parameter.log is not None)


def _suggest(trial: Any, name: str, parameter: Parameter) -> Any:
    if parameter.choice is not None:
        return parameter.choice[trial.suggest_categorical(name, tuple(range(len(parameter.choice))))]
    low, high = candidates(name, parameter)
    suggest = trial.suggest_int if number_kind(target(name, parameter)) == "int" else trial.suggest_float
    return suggest(name, low, high, log=parameter.log is not None)


def external(parameter: Parameter, value: Any) -> Any:
    """The value in Optuna's representation: for a choice its index, found by its JSON text, so that 1 is not true."""
    if parameter.choice is None:
        return value
    return [json.dumps(option, sort_keys=True) for option in parameter.choice].index(json.dumps(value, sort_keys=True))


@contextmanager
def quiet() -> Iterator[None]:
    """Silence Optuna's log line per study, its hint at a faster solver and its warning that `group` is experimental."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)
