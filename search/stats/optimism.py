"""The optimism of the best trial of a search (selection bias): it was selected for a low value, partly luck. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

_NEAR = 8  # seed standard deviations; a trial further behind cannot be as good as the best
_STEP = 0.05  # of the grid, in seed standard deviations
_ROUNDS = 300  # of the fit; more change less than 1 %


def optimism(values: Sequence[float], sd: float) -> float:
    """By how much the true value of the best is expected to exceed its observed one; nats (bits per byte), >= 0.

    values: one run each, on one scale, of all trials at full length. sd: of one run over seeds (`fit(...).total`).

    Empirical Bayes: true values come from a prior, observed = true + normal noise. The prior is the nonparametric
    maximum likelihood estimate, of any shape, by EM (Kiefer and Wolfowitz 1956); the result is a posterior mean.
    The usual normal prior is widened by the bad points of any space and then underestimates the optimism: where a third
    of the trials were as good as the best and the rest far away it estimated a fifth to two thirds of the true value;
    this one estimates 75 to 110 % of it for 8 to 64 trials, in simulations with spaces of many shapes.
    """
    y = np.sort(np.array(values, dtype=float))
    if len(y) < 2 or not 0 < sd < math.inf:
        return 0.0
    y = (y - y[0]) / sd
    y = y[y <= _NEAR]
    grid = np.linspace(0, y[-1], 2 + int(y[-1] / _STEP))  # (truths,): none lies outside the observed
    likelihood = np.exp(-0.5 * (y[:, None] - grid) ** 2)  # (values, truths)
    prior = np.full(len(grid), 1 / len(grid))
    for _ in range(_ROUNDS):
        posterior = likelihood * prior
        posterior /= posterior.sum(1, keepdims=True)
        prior = posterior.mean(0)
    return float(posterior[0] @ grid * sd)
