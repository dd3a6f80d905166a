"""Finalists: the best trials of a search again, with fresh seeds, a round at a time. Pure: no Ray, no files.

All finalists share the seeds, and with them the order of the data and the initial weights of equal shapes: differences
are paired. A finalist that is clearly behind after a round, or whose run breaks, is not in the next.
Where a spec compares values (`compare: loss`), each value has its finalists and its race; rounds are common to all.

The race is for first place: it ends when one finalist is clearly ahead, whatever the order behind it. A finalist
leaves when its distance to the leader is outside Tukey-Kramer's interval, the residual variance being that of the
whole field (`statistics.fit`), so that in at most one race of a hundred anybody leaves who is as good as the leader,
over all rivals and looks. Looser looks (5 %, or irace's t tests of pairs) saved few runs more and let the groups of
the table go wrong too often; a rival at 8 seed standard deviations leaves a field of four after two or three rounds.
A leader of one value is yet to be compared with the others' leaders, and runs every round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from search.spec.study_spec import StudySpec
from search.stats.statistics import RACE, fit, margin
from search.study.scores import ranked, seed_scores
from search.study.study import Study

FEWEST = 2  # rounds before anybody leaves: the noise is not known from one


def fresh_seed(spec: StudySpec, round_: int) -> int:
    """The seed that all finalists share in a round (from 1)."""
    return int(np.random.SeedSequence([spec.seed, 0xF1A, round_]).generate_state(1)[0]) % 2**31


def candidates(study: Study, top: int) -> list[list[int]]:
    """The best trials of the search by the objective, at most `top` of each group, the best first; one group where the
    spec compares no values."""
    groups: dict[str, list[int]] = {}
    for trial in ranked(study, study.searched):
        groups.setdefault(trial.group, []).append(trial.number)
    return [group[:top] for group in groups.values()]


def pending(study: Study, spec: StudySpec) -> list[tuple[int, int]]:
    """Trials that are to be run again, with their round; none while a round is under way, or when all is clear."""
    if spec.finalists is None:
        return []
    groups, compared = candidates(study, spec.finalists.top), spec.compare is not None
    for round_ in range(1, spec.finalists.seeds + 1):
        doubtful: list[int] = []
        for chosen in groups:
            scores = {number: seed_scores(study, number)[: round_ - 1] for number in chosen}
            finite = {
                number: round_scores for number, round_scores in scores.items() if all(map(math.isfinite, round_scores))
            }
            doubtful += in_doubt(finite, spec.finalists.seeds, compared) if round_ > 1 else chosen
        missing = [number for number in doubtful if all(run.round != round_ for run in study.again(number))]
        if missing:
            return [(number, round_) for number in missing]
        if any(len(seed_scores(study, number)) < round_ for number in doubtful):
            return []
    return []


def in_doubt(values: Mapping[int, Sequence[float]], rounds: int, to_the_end: bool = False) -> list[int]:
    """The finalists that the next round is for, in the order given; empty when the race is over.

    values: by trial, one per round that it ran, finite; those that left have fewer. rounds: how many there may be.
    One finalist alone runs every round: its own scatter is wanted. to_the_end: so does a leader whose race is over.
    """
    done = max(map(len, values.values()), default=0)
    running = [number for number, round_values in values.items() if len(round_values) == done]
    if done >= rounds:
        return []
    if done < FEWEST or len(values) == 1:
        return running
    seeds = fit(values)
    leader = min(running, key=lambda number: seeds.means[number])
    looks = max(1, rounds - FEWEST)
    left = [
        number
        for number in running
        if seeds.means[number] - seeds.means[leader]
        <= margin(seeds.of_difference(number, leader), len(values), RACE / looks)
    ]
    return left if len(left) > 1 or to_the_end else []
