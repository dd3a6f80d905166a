"""A trial's objective and score, and who leads: what every ranking starts from. Pure functions of a study."""

from __future__ import annotations

import math

from search.stats.statistics import fit
from search.study.journal import AT_REST
from search.study.study import Study, Trial

UNITS = {"val_perplexity": "perplexity", "val_bits_per_byte": "bits/byte"}
BROKEN = ("diverged", "out_of_memory", "failed")


def objective_name(study: Study) -> str:
    """The metric that this study ranks on."""
    return str(study.header.get("spec", {}).get("objective", "val_perplexity"))


def objective(study: Study, trial: Trial) -> float | None:
    """The trial's objective, or None: only trials that ran to full length have one, and it is finite."""
    if trial.final is None:
        return None
    value = trial.final["metrics"].get(objective_name(study))
    return value if value is not None and math.isfinite(value) else None


def score(study: Study, trial: Trial) -> float:
    """A trial's objective where differences are compared: log-perplexity in nats, or bits per byte; inf without."""
    value = objective(study, trial)
    if value is None:
        return math.inf
    return math.log(value) if objective_name(study) == "val_perplexity" else value


def seed_scores(study: Study, number: int) -> list[float]:
    """The scores of a finalist's runs with fresh seeds, round by round, up to the first that has not ended."""
    found = []
    for trial in study.again(number):
        if trial.status not in AT_REST:
            break
        found.append(score(study, trial))
    return found


def finalists(study: Study) -> dict[int, list[float]]:
    """The scores of all finalists' runs, by trial; of those whose every run so far reached full length."""
    chosen = sorted({trial.of for trial in study.trials.values() if trial.of is not None})
    found = {number: seed_scores(study, number) for number in chosen}
    return {number: scores for number, scores in found.items() if scores and all(map(math.isfinite, scores))}


def best(study: Study) -> Trial | None:
    """The trial that leads, or None as long as none has ended at full length.

    Where there are finalists, the one with the best mean over fresh seeds; else the one with the best objective.
    """
    return leader(study, study.searched)


def leader(study: Study, trials: list[Trial]) -> Trial | None:
    """Who leads among these trials of the search: by the same rule."""
    means = fit(finalists(study)).means
    if again := [trial.number for trial in trials if trial.number in means]:
        return study.trials[min(again, key=lambda number: means[number])]
    ranked = [(value, trial.number) for trial in trials if (value := objective(study, trial)) is not None]
    return study.trials[min(ranked)[1]] if ranked else None
