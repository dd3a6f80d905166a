"""The race: who leaves it, when it ends, and how seldom it errs."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import studentized_range

from search.strategy.finalists import in_doubt


def race(truth: list[float], rounds: int, rng: np.random.Generator, shared: float = 0.0) -> dict[int, list[float]]:
    """A whole race between trials of known means and a residual SD of 1. shared: SD of what a round does to all."""
    values: dict[int, list[float]] = {number: [] for number in range(len(truth))}
    running = list(values)
    while running:
        common = shared * rng.standard_normal()
        for number in running:
            values[number].append(truth[number] + common + rng.standard_normal())
        running = in_doubt(values, rounds)
    return values


def test_nobody_leaves_before_two_rounds_are_known() -> None:
    assert in_doubt({}, 3) == []
    assert in_doubt({4: [], 7: []}, 3) == [4, 7]
    assert in_doubt({4: [1.0], 7: [99.0]}, 3) == [4, 7]


def test_it_ends_when_the_rounds_are_used_or_one_is_clearly_ahead() -> None:
    close = {1: [2.00, 2.10, 2.05], 2: [2.01, 2.09, 2.07], 3: [2.02, 2.07, 2.06]}
    assert in_doubt(close, 4) == [1, 2, 3]
    assert in_doubt(close, 3) == []
    clear = {1: [2.00, 2.10, 2.05], 2: [3.01, 3.10, 3.06], 3: [3.02, 3.11, 3.07]}
    assert in_doubt(clear, 4) == []


def test_only_the_clearly_worse_leaves_and_stays_away() -> None:
    values = {1: [2.00, 2.10], 2: [2.01, 2.09], 3: [4.02, 4.11]}
    assert in_doubt(values, 4) == [1, 2]
    values[1].append(2.05)
    values[2].append(2.04)
    assert in_doubt(values, 4) == [1, 2]


@pytest.mark.parametrize(("rounds", "looks"), [(3, 1), (4, 2), (6, 4)])
def test_who_leaves_is_outside_tukeys_range_at_one_percent_shared_by_the_looks(rounds: int, looks: int) -> None:
    values = {1: [2.00, 2.10], 2: [2.02, 2.09], 3: [2.01, 2.08]}
    y = np.array(list(values.values()))
    residual = ((y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()) ** 2).sum() / 2  # of 2 degrees of freedom
    reach = float(studentized_range.ppf(1 - 0.01 / looks, 3, 2)) * math.sqrt(residual / 2)
    for times, left in ((0.99, [1, 2, 3]), (1.01, [1, 2])):
        worse = 2.05 - 2.045 + times * reach  # to be that far behind the first, whose mean is 2.05
        assert in_doubt({**values, 3: [value + worse for value in values[3]]}, rounds) == left


def test_who_left_does_not_come_back_even_where_the_rest_gets_worse() -> None:
    assert in_doubt({1: [2.00, 2.10, 9.0], 2: [2.01, 2.09, 9.1], 3: [4.02, 4.11]}, 5) == [1, 2]


def test_a_bad_seed_that_all_share_is_no_doubt() -> None:
    rng = np.random.default_rng(0)
    alone = [len(race([0, 12, 12], 6, rng)[1]) for _ in range(30)]
    together = [len(race([0, 12, 12], 6, rng, shared=20.0)[1]) for _ in range(30)]
    assert abs(np.mean(alone) - np.mean(together)) < 0.7
    assert np.mean(together) < 4


def test_one_finalist_alone_runs_every_round() -> None:
    values: dict[int, list[float]] = {5: []}
    while in_doubt(values, 3):
        values[5].append(1.0)
    assert values == {5: [1.0, 1.0, 1.0]}


def test_copies_almost_never_part_and_clear_differences_save_runs() -> None:
    rng = np.random.default_rng(1)
    copies = [race([0.0] * 4, 5, rng) for _ in range(600)]
    assert sum(any(len(found) < 5 for found in values.values()) for values in copies) <= 600 * 0.02
    clear = [race([0.0, 1.0, 8.0, 8.0, 8.0], 5, rng) for _ in range(100)]
    assert np.mean([sum(map(len, values.values())) for values in clear]) < 0.75 * 25
    assert all(len(values[0]) == 5 for values in clear[:50])  # the best runs on while its neighbour does
