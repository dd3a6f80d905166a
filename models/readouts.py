"""Read-outs: how probabilities are read from logits that a loss has trained.

    log_p = log_probs(loss, parameters, logits, SOFTMAX)       # (N, C)

softmax is what cross_entropy and brier are trained for; inverse undoes the bias that squares of logits bring. A loss
names its read-outs in its declaration (models.losses), and may bring one of its own. Imports no torch by itself.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.loss import Loss, Parameters, Readout, Terms, fill_parameters

if TYPE_CHECKING:
    from torch import Tensor

# An inverse read-out gives every class at least FLOOR_MASS / C, before it normalises. Of 0.1 ... 1e-5 it was the
# best for rescaled_mse and squentropy_coded, 0.005 nats behind the best for squentropy, 0.013 behind 0.03 for mse
# (shakespeare_char, 4 layers of 128, 1,500 steps).
FLOOR_MASS = 0.01


def log_probs(loss: Loss, parameters: Parameters, logits: Tensor, readout: Readout) -> Tensor:
    """Normalised log-probabilities, without gradient. logits (N, C) -> (N, C), in fp32 or wider.

    ValueError for a parameter which the loss does not have.
    """
    import torch

    with torch.no_grad():
        weights = _weights(loss, parameters, logits, readout)
        if readout.log:
            return weights.log_softmax(-1)
        if weights.untyped_storage().data_ptr() == logits.untyped_storage().data_ptr():
            weights = weights.clone()  # the caller's logits stay as they are
        return weights.div_(weights.sum(-1, keepdim=True)).log_()


def target_log_probs(loss: Loss, parameters: Parameters, logits: Tensor, targets: Tensor, readout: Readout) -> Tensor:
    """log_probs at the targets only: logits (N, C), targets (N,) int64 -> (N,), with fewer passes over the logits."""
    import torch

    with torch.no_grad():
        weights = _weights(loss, parameters, logits, readout)
        if readout.log:
            return -torch.nn.functional.cross_entropy(weights, targets, reduction="none")
        return (weights.gather(-1, targets[:, None]).squeeze(-1) / weights.sum(-1)).log()


def _weights(loss: Loss, parameters: Parameters, logits: Tensor, readout: Readout) -> Tensor:
    from models.head import wide

    return readout.weights(loss, fill_parameters(loss, parameters), wide(logits))


def _logits(loss: Loss, parameters: Parameters, logits: Tensor) -> Tensor:
    return logits


def _inverse(loss: Loss, parameters: Parameters, logits: Tensor) -> Tensor:
    assert loss.terms is not None  # of_terms
    return solve(loss.terms(parameters, logits.shape[-1]), logits)


def solve(t: Terms, f: Tensor) -> Tensor:
    """The P, up to normalisation, whose optimal logits are f. f (N, C) -> (N, C), all positive.

    Over targets drawn from P the family's mean has the derivative, with p = softmax(f),

        dL/df_j = ce (p_j - P_j) + 2 others (1 - P_j) f_j + 2 target P_j (f_j - M)

    At the optimum it is zero, which is linear in P_j:

        P_j = (ce p_j + 2 others f_j) / (ce + 2 others f_j - 2 target (f_j - M))

    With c = 2 lambda / (C - 1) that is squentropy's (p_j + c f_j) / (1 + c f_j), and rescaled_mse's
    f_j / (k M - (k - 1) f_j). Logits of a real network are no optimum, so the quotient may leave [0, 1], and
    its denominator may vanish or change sign. Where the numerator is positive, a denominator below it, of
    whatever sign, means a logit too large: 1. A numerator not above 0 means a logit too small: the floor.
    NaN stays NaN: a diverged network has no score.

    Weak squares have a small bias and undo little, so they get a lower floor: by sqrt(lambda), which kept within
    0.001 nats of the best floor for lambda from 0.1 to 0.001, and ends in softmax as lambda goes to 0.
    """
    import torch

    C, tiny = f.shape[-1], torch.finfo(f.dtype).tiny
    # in place where it can be: at V = 50,304 every (N, C) counts
    numerator = f.softmax(-1).mul_(t.ce).add_(f, alpha=2 * t.others) if t.ce else 2 * t.others * f
    denominator = (2 * (t.others - t.target) * f).add_(t.ce + 2 * t.target * t.M)
    denominator = torch.maximum(denominator, numerator, out=denominator).clamp_min_(tiny)
    floor = FLOOR_MASS / C * (min(1.0, math.sqrt(t.others * C / t.ce)) if t.ce else 1.0)
    return numerator.div_(denominator).clamp_min_(max(floor, C * tiny))  # so that a normalised one is no zero


SOFTMAX = Readout("softmax", "P_j = exp(f_j) / sum_k exp(f_k)", weights=_logits, log=True, monotone=True)
INVERSE = Readout(
    "inverse",
    "the P whose optimal logits are f",
    weights=_inverse,
    monotone=True,
    of_terms=True,
)
