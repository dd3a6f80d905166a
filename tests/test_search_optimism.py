"""How optimistic the best value of a search is, against simulations whose truth is known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from search.stats.optimism import optimism

Spread = Callable[[np.random.Generator, int], np.ndarray]
SPACES: dict[str, Spread] = {
    "copies": lambda rng, n: np.zeros(n),
    "normal": lambda rng, n: rng.standard_normal(n),
    "wide": lambda rng, n: 3 * rng.standard_normal(n),
    "a valley": lambda rng, n: 10 * rng.uniform(-1, 1, n) ** 2,
    "a third are good": lambda rng, n: np.where(rng.random(n) < 1 / 3, 0, 10.0),
    "a long tail": lambda rng, n: rng.exponential(10, n),
}


@pytest.mark.parametrize("n", [12, 64])
@pytest.mark.parametrize("space", SPACES)
def test_it_is_what_the_best_of_n_flatters_itself_by(space: str, n: int) -> None:
    rng, sd, found, true = np.random.default_rng(5), 0.03, [], []
    for _ in range(60):
        truth = sd * SPACES[space](rng, n)
        observed = truth + sd * rng.standard_normal(n)
        true.append(truth[observed.argmin()] - observed.min())
        found.append(optimism(list(observed), sd))
    assert np.mean(found) == pytest.approx(np.mean(true), rel=0.35)


def test_it_grows_with_the_number_of_copies_and_scales_with_the_noise() -> None:
    rng = np.random.default_rng(1)
    values = rng.standard_normal(64)
    means = [np.mean([optimism(list(part), 1.0) for part in values.reshape(-1, n)]) for n in (2, 8, 64)]
    assert means == sorted(means)
    assert means[0] > 0
    assert optimism(list(2 + 0.01 * values), 0.01) == pytest.approx(0.01 * optimism(list(values), 1.0))


def test_one_trial_no_noise_or_a_lead_beyond_any_luck_flatters_nothing() -> None:
    assert optimism([2.0], 0.1) == 0.0
    assert optimism([], 0.1) == 0.0
    assert optimism([2.0, 2.1], 0.0) == 0.0
    assert optimism([2.0, 4.0, 5.0], 0.01) == 0.0
    assert optimism([2.0, 2.0], 0.01) == 0.0
