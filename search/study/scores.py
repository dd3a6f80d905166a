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


def copies(study: Study) -> dict[int, int]:
    """The trials of the search that repeat another one's configuration, each with the number of the trial that counts.

    All trials of a search have the same seed, so copies are one piece of evidence. The search proposes none any more;
    journals of older releases may have some. Of equal trials the one with the most fresh seeds counts, then one of full
    length, then the one that trained furthest, then the first.
    """
    equal: dict[str, list[Trial]] = {}
    for trial in study.searched:
        equal.setdefault(trial.configuration, []).append(trial)
    counted: dict[int, int] = {}
    for trials in equal.values():
        if len(trials) > 1:
            first, *others = sorted(trials, key=lambda trial: _evidence(study, trial))
            counted.update(dict.fromkeys((other.number for other in others), first.number))
    return counted


def _evidence(study: Study, trial: Trial) -> tuple[int, bool, int, int]:
    return -len(study.again(trial.number)), trial.final is None, -trial.tokens, trial.number


def distinct(study: Study, trials: Iterable[Trial]) -> list[Trial]:
    """The trials without the copies among those of the study's search, in the same order."""
    repeated = copies(study)
    return [trial for trial in trials if trial.number not in repeated]


def seed_scores(study: Study, number: int) -> list[float]:
    """The scores of a finalist's runs with fresh seeds, in order of rounds, up to the first run that has not ended."""
    scores = []
    for trial in study.again(number):
        if trial.status not in INACTIVE:
            break
        scores.append(score(study, trial))
    return scores


def finalists(study: Study) -> dict[int, list[float]]:
    """The scores of finalists' runs, by trial; only finalists whose runs so far all reached full length, no copies."""
    repeated = copies(study)
    chosen = sorted({trial.of for trial in study.trials.values() if trial.of is not None} - repeated.keys())
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
    order = ranked(study, distinct(study, trials) or trials)
    return order[0] if order else None


def ranked(study: Study, trials: Iterable[Trial]) -> list[Trial]:
    """The trials that have an objective, sorted, the best first."""
    rank = objective_of(study).rank
    values = [(rank(value), trial.number) for trial in trials if (value := objective(study, trial)) is not None]
    return [study.trials[number] for _, number in sorted(values)]
