"""Calibration: reliability bins, and one temperature fitted on text that is not scored.

The temperature T turns the read-out's probabilities p into p_j^(1/T) / sum_k p_k^(1/T) (Guo et al. 2017, arXiv
1706.04599; for a softmax read-out that divides the logits by T). With b = 1/T the negative log-likelihood -b log p_y +
log sum_j p_j^b is convex in b. Its slope is measured at five values of b in one pass over the text, so no logits are
stored. The zero of the slope lies between two of them, mostly at the first attempt; a cubic through slopes and
curvatures locates it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BINS = 15  # of equal width, as Guo et al.
SHARE, STRETCHES = 5, 20  # fit on a fifth of the units, in about 20 stretches, so that few windows belong to both parts
RATIO, NODES, SHIFTS = 1.25, 5, 3  # b from 1.25^-2 to 1.25^2; moved up or down by 1.25^4 at most three times


@dataclass(frozen=True)
class Calibration:
    """The effect of the fitted temperature on the part of the split that it was not fitted on.

    tokens: targets in that part. raw, calibrated: their total nats without and with the temperature.
    """

    temperature: float
    tokens: int
    raw: float
    calibrated: float


def part(starts: np.ndarray) -> np.ndarray:
    """The targets to fit on, (N,) bool: about a fifth of the U units, in stretches spread over the split.

    starts: (U + 1,) as from `scores.unit_starts`. The choice is the same for every trial. All False where U is 1.
    """
    n_units = len(starts) - 1
    stretch = max(1, n_units // (SHARE * STRETCHES))
    chosen = np.arange(n_units) // stretch % SHARE == 0
    if n_units == 1:
        chosen[:] = False
    return np.repeat(chosen, np.diff(starts))


def slopes(log_p: Tensor, targets: Tensor, powers: np.ndarray) -> Tensor:
    """First and second derivatives of each target's nats with respect to b = 1/T, at K values of b (`powers`).

    log_p (n, C), targets (n,) -> (2 K, n), the K first derivatives before the K second.
    """
    first, second = [], []
    for power in powers.tolist():
        weights = (log_p * power).softmax(-1)
        mean = (weights * log_p).sum(-1)
        second.append((weights.mul_(log_p) * log_p).sum(-1) - mean.square())
        first.append(mean)
    gained = log_p.gather(-1, targets[:, None]).squeeze(-1)
    return torch.cat((torch.stack(first) - gained, torch.stack(second)))


def tempered_nll(log_p: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Nats of each target after the temperature. log_p (n, C), targets (n,) -> (n,)."""
    return tempered(log_p, targets, temperature)[0]


def tempered(log_p: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """After the temperature: nats of each target, and the likeliest class's probability.

    log_p (n, C), targets (n,) -> (2, n).
    """
    scaled = (log_p / temperature).log_softmax(-1)
    return torch.stack((-scaled.gather(-1, targets[:, None]).squeeze(-1), scaled.amax(-1).exp()))


def fit(measure: Callable[[np.ndarray], np.ndarray]) -> float:
    """The temperature with the least negative log-likelihood, between 1.25^-14 and 1.25^14 (about 1/23 and 23).

    measure: returns, for powers (K,), the summed `slopes` (2 K,). It is called once for most models, at most four
    times. Returns NaN where slopes are not finite.
    """
    powers, shift = RATIO ** np.arange(-(NODES // 2), NODES // 2 + 1.0), RATIO ** (NODES - 1)
    limit = 1.0
    for _ in range(1 + SHIFTS):
        measured = measure(powers)
        if not np.isfinite(measured).all():
            return math.nan
        slope, curvature = measured[:NODES], measured[NODES:]
        if slope[0] <= 0 <= slope[-1]:
            return 1 / _zero(powers, slope, curvature)
        limit, powers = (powers[-1], powers * shift) if slope[-1] < 0 else (powers[0], powers / shift)
    return 1 / float(limit)


def _zero(x: np.ndarray, y: np.ndarray, slope: np.ndarray) -> float:
    """Where the cubic Hermite interpolant of the rising y, with y' = slope, is zero; y[0] <= 0 <= y[-1]."""
    i = min(int(np.searchsorted(y, 0.0, side="right")), len(x) - 1) - 1
    width = float(x[i + 1] - x[i])

    def value(t: float) -> float:
        ends = (1 + 2 * t) * (1 - t) ** 2 * y[i] + t * t * (3 - 2 * t) * y[i + 1]
        return float(ends + width * t * (1 - t) * ((1 - t) * slope[i] - t * slope[i + 1]))

    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if value(middle) < 0 else (low, middle)
    return float(x[i]) + width * (low + high) / 2


def reliability(confidence: np.ndarray, correct: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Bins ((m - 1) / 15, m / 15] of the likeliest class's probability: count, mean confidence, accuracy, (15,) each.

    confidence (N,) in (0, 1]; correct (N,), 1 where the likeliest class was the target. NaN goes into no bin.
    """
    finite = np.isfinite(confidence)
    bins = np.clip(np.ceil(confidence[finite] * BINS).astype(np.int64) - 1, 0, BINS - 1)
    count = np.bincount(bins, minlength=BINS).astype(np.float64)
    means = [np.bincount(bins, values[finite], BINS) / np.maximum(count, 1) for values in (confidence, correct)]
    return count, means[0], means[1]
