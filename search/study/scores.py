"""A trial's objective and score, and the leader: the basis of every ranking. Pure functions of a study."""

from __future__ import annotations

import math
from collections.abc import Iterable

from search.spec.objective import OBJECTIVES, Objective
from search.stats.statistics import fit
from search.study.journal import INACTIVE
from search.study.study import Study, Trial

BROKEN = ("diverged", "out_of_memory", "failed")


def objective_of(study: Study) -> Objective:
    """The objective by which the study ranks its trials."""
    return OBJECTIVES[study.header.spec.objective]


def objective(study: Study, trial: Trial) -> float | None:
    """The trial's objective, finite; None where the trial did not train to full length or has no finite value."""
    if trial.final is None:
        return None
    value = trial.final["metrics"].get(objective_of(study).name)
    return value if value is not None and math.isfinite(value) else None


def score(study: Study, trial: Trial) -> float:
    """A trial's objective on the comparison scale (log-perplexity in nats, for instance), lower is better; inf without
    one."""
    value = objective(study, trial)
    return math.inf if value is None else objective_of(study).compared(value)


def seed_scores(study: Study, number: int) -> list[float]:
    """The scores of a finalist's runs with fresh seeds, in order of rounds, up to the first run that has not ended."""
    scores = []
    for trial in study.again(number):
        if trial.status not in INACTIVE:
            break
        scores.append(score(study, trial))
    return scores


def finalists(study: Study) -> dict[int, list[float]]:
    """The scores of finalists' runs, by trial; only finalists whose runs so far all reached full length."""
    chosen = sorted({trial.of for trial in study.trials.values() if trial.of is not None})
    each = {number: seed_scores(study, number) for number in chosen}
    return {number: scores for number, scores in each.items() if scores and all(map(math.isfinite, scores))}


def best(study: Study) -> Trial | None:
    """The leading trial of the study, or None as long as no trial has reached full length.

    With finalists it is the one with the best mean over fresh seeds, else the trial with the best objective.
    """
    return leader(study, study.searched)


def leader(study: Study, trials: list[Trial]) -> Trial | None:
    """The leading trial among these trials of the search, by the same rule as `best`."""
    means = fit(finalists(study)).means
    if again := [trial.number for trial in trials if trial.number in means]:
        return study.trials[min(again, key=lambda number: means[number])]
    order = ranked(study, trials)
    return order[0] if order else None


def ranked(study: Study, trials: Iterable[Trial]) -> list[Trial]:
    """The trials that have an objective, sorted, the best first."""
    rank = objective_of(study).rank
    values = [(rank(value), trial.number) for trial in trials if (value := objective(study, trial)) is not None]
    return [study.trials[number] for _, number in sorted(values)]
