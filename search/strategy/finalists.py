"""Finalists: the best trials of a search, repeated with fresh seeds, one round after another. Pure: no Ray, no files.

The finalists of a round share its seed, and with it the order of the data and the initial weights of equal shapes, so
that differences are paired. A finalist that is clearly behind after a round, or whose run fails, is dropped.
With `compare: loss` each value has its own finalists and its own race; the rounds' seeds are common to all.

The race is for first place: it ends when one finalist is clearly ahead, whatever the order behind it. A finalist is
dropped when its distance to the leader is outside the Tukey-Kramer interval, with the residual variance estimated from
all finalists (`statistics.fit`): over all rivals and interim looks, at most one race in a hundred drops a finalist that
is as good as the leader. Looser limits (5 %, or irace's pairwise t tests) saved few more runs and made the groups of
the leaderboard wrong too often; of four finalists one at 8 seed standard deviations is dropped after two or three
rounds. With `compare` the leader of a value runs every round, because the values' leaders are then compared.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from search.spec.study_spec import StudySpec
from search.stats.statistics import RACE, fit, margin
from search.study.scores import distinct, ranked, seed_scores
from search.study.study import Study

FEWEST = 2  # rounds before a finalist may be dropped: one round gives no estimate of the noise


def fresh_seed(spec: StudySpec, round_: int) -> int:
    """The seed that all finalists share in a round. round_: from 1."""
    return int(np.random.SeedSequence([spec.seed, 0xF1A, round_]).generate_state(1)[0]) % 2**31


def candidates(study: Study, top: int) -> list[list[int]]:
    """The best distinct trials of the search by the objective, at most `top` of each group, the best first; one group
    where the spec compares no values."""
    groups: dict[str, list[int]] = {}
    for trial in ranked(study, distinct(study, study.searched)):
        groups.setdefault(trial.group, []).append(trial.number)
    return [group[:top] for group in groups.values()]


def pending(study: Study, spec: StudySpec) -> list[tuple[int, int]]:
    """The finalists' runs to start next, as (trial, round); none while a round runs or once the race is decided."""
    if spec.finalists is None:
        return []
    groups, compared = candidates(study, spec.finalists.top), spec.compare is not None
    for round_ in range(1, spec.finalists.seeds + 1):
        in_race: list[int] = []
        for chosen in groups:
            scores = {number: seed_scores(study, number)[: round_ - 1] for number in chosen}
            finite = {
                number: round_scores for number, round_scores in scores.items() if all(map(math.isfinite, round_scores))
            }
            in_race += in_doubt(finite, spec.finalists.seeds, compared) if round_ > 1 else chosen
        missing = [number for number in in_race if all(run.round != round_ for run in study.again(number))]
        if missing:
            return [(number, round_) for number in missing]
        if any(len(seed_scores(study, number)) < round_ for number in in_race):
            return []
    return []


def in_doubt(values: Mapping[int, Sequence[float]], rounds: int, to_the_end: bool = False) -> list[int]:
    """The finalists that run in the next round, in the order of `values`; empty when the race is over.

    values: by trial, one finite score per round that it ran; dropped finalists have fewer. rounds: the most there are.
    A single finalist runs every round, to estimate its spread over seeds. to_the_end: so does the leader of a race that
    is decided.
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
