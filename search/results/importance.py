"""Which parameters mattered: Optuna's conditional PED-ANOVA, and what it would say of shuffled values.

It asks how differently a parameter's values are spread among the best quarter of the trials than among all, each
conditional parameter where it exists (Watanabe et al. 2023, arXiv 2304.10255; the conditional one: 2601.20800). All
trials are compared at one length, as the value of a longer trial is another thing: the longest that enough came to.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from search.spec.points import ordered
from search.spec.study_spec import StudySpec
from search.strategy.sampler import distribution, external, quiet
from search.study.scores import BROKEN, objective, objective_of
from search.study.study import Study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

FEWEST = 20  # trials: five in the best quarter, below which Optuna's authors find it unstable
_BEST = 0.25
_SHUFFLES = 40
_LUCK = 0.95  # quantile of what shuffled values give


@dataclass(frozen=True)
class Importance:
    """rung: nominal tokens at which trials were compared, None: full length. trials: how many. share: by parameter,
    the largest first, sums to 1. luck: on the same scale, what 95 of 100 shuffles of the values stay under.

    Without shares: most, the trials at the length with the most, too few to say anything.
    """

    rung: int | None
    trials: int
    share: dict[str, float]
    luck: dict[str, float]


def importance(study: Study) -> Importance:
    """Empty shares where too few trials, or a spec of another release, allow no statement."""
    rungs = [None, *reversed(study.header.rungs)]
    each = {rung: _values(study, rung) for rung in rungs}
    chosen = next((rung for rung in rungs if len(each[rung]) >= FEWEST), None)
    values = each[chosen]
    if len(values) < FEWEST:
        most = max(rungs, key=lambda rung: len(each[rung]))
        return Importance(most, len(each[most]), {}, {})
    if study.header.spec_reading.refused:
        return Importance(chosen, len(values), {}, {})
    spec = study.header.spec
    numbers = list(values)
    with quiet():
        found = _evaluate(spec, study, dict(zip(numbers, values.values(), strict=True)))
        rng = np.random.default_rng(spec.seed)
        shuffled = [
            _evaluate(spec, study, dict(zip(numbers, rng.permutation(list(values.values())), strict=True)))
            for _ in range(_SHUFFLES)
        ]
    total = sum(found.values())
    if not total:
        return Importance(chosen, len(values), {}, {})
    order = sorted(found, key=lambda name: -found[name])
    luck = {name: float(np.quantile([one.get(name, 0.0) for one in shuffled], _LUCK)) / total for name in order}
    return Importance(chosen, len(values), {name: found[name] / total for name in order}, luck)


def _values(study: Study, rung: int | None) -> dict[int, float]:
    """What every trial that came to this length is ranked by, lower is better; of one that broke before the worst."""
    target, found = objective_of(study), {}
    for trial in study.searched:
        if rung is None:
            value = objective(study, trial)
        else:
            value = next((r["metrics"].get(target.name) for r in trial.reports if r["rung"] == rung), None)
        if value is not None and math.isfinite(value):
            found[trial.number] = target.rank(float(value))
    worst = max(found.values(), default=0.0)
    broken = [trial for trial in study.searched if trial.status in BROKEN and trial.number not in found]
    return {**found, **{trial.number: worst for trial in broken}} if found else {}


def _evaluate(spec: StudySpec, study: Study, values: dict[int, float]) -> dict[str, float]:
    import optuna
    from optuna.importance import PedAnovaImportanceEvaluator

    told = optuna.create_study()
    told.add_trials([_trial(spec, study.trials[number].point, value) for number, value in values.items()])
    return dict(PedAnovaImportanceEvaluator(target_quantile=_BEST).evaluate(told))


def _trial(spec: StudySpec, point: dict[str, object], value: float) -> FrozenTrial:
    from optuna.trial import create_trial

    names = [name for name in ordered(spec.space) if name in point]
    params = {name: external(spec.space[name], point[name]) for name in names}
    distributions = {name: distribution(name, spec.space[name]) for name in names}
    return create_trial(params=params, distributions=distributions, value=float(value))
