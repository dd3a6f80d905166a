"""Finalists: the best trials of a search again, with fresh seeds, a round at a time. Pure: no Ray, no files.

All share the seeds, and with them the order of the data and the initial weights of equal shapes: differences are
paired. Who is clearly behind after a round is not in the next (`search.stats.racing`); a run that breaks says the same.
Where a spec compares values (`compare: loss`), each has its finalists and its race; rounds are common to all.
"""

from __future__ import annotations

import math

import numpy as np

from search.results.leaderboard import objective, seed_scores
from search.spec.study_spec import StudySpec
from search.stats.racing import in_doubt
from search.study.study import Study


def fresh_seed(spec: StudySpec, round_: int) -> int:
    """The seed that all finalists share in a round (from 1)."""
    return int(np.random.SeedSequence([spec.seed, 0xF1A, round_]).generate_state(1)[0]) % 2**31


def candidates(study: Study, top: int) -> list[list[int]]:
    """The best trials of the search by the objective, at most `top` of each group, the best first; one group where the
    spec compares no values."""
    ranked = [(value, trial.number) for trial in study.searched if (value := objective(study, trial)) is not None]
    groups: dict[str, list[int]] = {}
    for _, number in sorted(ranked):
        groups.setdefault(study.trials[number].group, []).append(number)
    return [group[:top] for group in groups.values()]


def pending(study: Study, spec: StudySpec) -> list[tuple[int, int]]:
    """Trials that are to be run again, with their round; none while a round is under way, or when all is clear."""
    if spec.finalists is None:
        return []
    groups, compared = candidates(study, spec.finalists.top), spec.compare is not None
    for round_ in range(1, spec.finalists.seeds + 1):
        doubtful: list[int] = []
        for chosen in groups:
            known = {number: seed_scores(study, number)[: round_ - 1] for number in chosen}
            whole = {number: found for number, found in known.items() if all(map(math.isfinite, found))}
            doubtful += in_doubt(whole, spec.finalists.seeds, compared) if round_ > 1 else chosen
        missing = [number for number in doubtful if all(run.round != round_ for run in study.again(number))]
        if missing:
            return [(number, round_) for number in missing]
        if any(len(seed_scores(study, number)) < round_ for number in doubtful):
            return []
    return []
