"""How far the best of a search flatters itself: it was picked for being low, and part of that was luck. Pure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_NEAR = 8  # seed standard deviations: what is further behind cannot have led by luck
_STEP = 0.05  # of the grid, in seed standard deviations
_ROUNDS = 300  # of the fit; more change less than 1 %


def optimism(values: Sequence[float], sd: float) -> float:
    """By how much the true value of the best is expected to exceed its observed one; nats (bits per byte), >= 0.

    values: one run each, on one scale, of all trials at full length. sd: of one run over seeds (`fit(...).total`).

    Truth = prior, observed = truth + normal noise; the prior is that which makes the values likeliest, whatever its
    shape (nonparametric maximum likelihood by EM: Kiefer and Wolfowitz 1956), and the answer is the posterior's.
    The usual normal prior is drawn wide by the bad points of any space and then sees no luck: where a third of the
    trials were as good as the best and the rest far away it found a fifth to two thirds of the truth; this one finds
    75 to 110 % of it for 8 to 64 trials, in simulations with spaces of many shapes.
    """
    y = np.sort(np.array(values, dtype=float))
    if len(y) < 2 or sd <= 0:
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
