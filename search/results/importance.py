"""Parameter importance: Optuna's conditional PED-ANOVA, against its values on shuffled objectives.

PED-ANOVA measures how far the distribution of a parameter's values among the best quarter of the trials differs from
that among all trials (Watanabe et al. 2023, arXiv 2304.10255); the conditional variant (arXiv 2601.20800) counts a
conditional parameter only where it exists. All trials are compared at one length, the longest that at least FEWEST
reached: values at different lengths are not comparable. Of equal configurations one counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.spec.points import ordered
from search.spec.study_spec import StudySpec
from search.strategy.sampler import distribution, external, quiet
from search.study.scores import BROKEN, distinct, objective, objective_of
from search.study.study import Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FEWEST = 20  # trials, so five in the best quarter; with fewer Optuna's authors call it unstable
_BEST = 0.25
_SHUFFLES = 40
_LUCK = 0.95  # quantile of the importances of shuffled objectives


@dataclass(frozen=True)
class Importance:
    """Importances of a study's parameters.

    rung: nominal tokens at which trials were compared, None for full length. trials: their number. share: importance
    by parameter, the largest first, sums to 1. luck: on the same scale, the value under which 95 of 100 shuffles stay.
    share and luck are empty where there are too few trials; rung is then the length with the most trials.
    """

    rung: int | None
    trials: int
    share: dict[str, float]
    luck: dict[str, float]


def importance(study: Study) -> Importance:
    """The importances at the longest length with enough trials.

    Without shares where no length has enough, or the spec is of another release that this one cannot check.
    """
    rungs = [None, *reversed(study.header.rungs)]
    by_rung = {rung: _values(study, rung) for rung in rungs}
    chosen = next((rung for rung in rungs if len(by_rung[rung]) >= FEWEST), None)
    values = by_rung[chosen]
    if len(values) < FEWEST:
        most = max(rungs, key=lambda rung: len(by_rung[rung]))
        return Importance(most, len(by_rung[most]), {}, {})
    if study.header.spec_reading.refused:
        return Importance(chosen, len(values), {}, {})
    spec = study.header.spec
    numbers = list(values)
    with quiet():
        importances = _evaluate(spec, study, dict(zip(numbers, values.values(), strict=True)))
        rng = np.random.default_rng(spec.seed)
        shuffled = [
            _evaluate(spec, study, dict(zip(numbers, rng.permutation(list(values.values())), strict=True)))
            for _ in range(_SHUFFLES)
        ]
    total = sum(importances.values())
    if not total:
        return Importance(chosen, len(values), {}, {})
    order = sorted(importances, key=lambda name: -importances[name])
    luck = {name: float(np.quantile([shuffle.get(name, 0.0) for shuffle in shuffled], _LUCK)) / total for name in order}
    return Importance(chosen, len(values), {name: importances[name] / total for name in order}, luck)


def _values(study: Study, rung: int | None) -> dict[int, float]:
    """The objective at this length by trial, lower is better; trials that broke before it get the worst value."""
    target, values = objective_of(study), {}
    searched = distinct(study, study.searched)
    for trial in searched:
        if rung is None:
            value = objective(study, trial)
        else:
            value = next((r["metrics"].get(target.name) for r in trial.reports if r["rung"] == rung), None)
        if value is not None and math.isfinite(value):
            values[trial.number] = target.rank(float(value))
    worst = max(values.values(), default=0.0)
    broken = [trial for trial in searched if trial.status in BROKEN and trial.number not in values]
    return {**values, **{trial.number: worst for trial in broken}} if values else {}


def _evaluate(spec: StudySpec, study: Study, values: dict[int, float]) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    optuna_study = optuna.create_study()
    optuna_study.add_trials([_trial(spec, study.trials[number].point, value) for number, value in values.items()])
    return dict(PedAnovaImportanceEvaluator(target_quantile=_BEST).evaluate(optuna_study))


def _trial(spec: StudySpec, point: dict[str, object], value: float) -> FrozenTrial:
    from optuna.trial import create_trial

    names = [name for name in ordered(spec.space) if name in point]
    params = {name: external(spec.space[name], point[name]) for name in names}
    distributions = {name: distribution(name, spec.space[name]) for name in names}
    return create_trial(params=params, distributions=distributions, value=float(value))
