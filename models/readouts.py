"""Read-outs: how the logits of a trained model become probabilities.

    log_p = log_probs(loss, parameters, logits, SOFTMAX)       # (N, C)

cross_entropy and brier train for softmax; inverse corrects the bias that squared logits in a loss cause. A loss names
its read-outs in its declaration (models.losses), and may add its own. Importing this module imports no torch.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from models.loss import Loss, Parameters, Readout, Terms, fill_parameters

if TYPE_CHECKING:
    from torch import Tensor

# The inverse read-out gives every class at least FLOOR_MASS / C before it normalises. Of the values 0.1 ... 1e-5 this
# one was the best for rescaled_mse and squentropy_coded, 0.005 nats behind the best for squentropy, 0.013 behind 0.03
# for mse (shakespeare_char, 4 layers of 128, 1,500 steps).
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
    """The P, up to normalisation, for which the logits f minimise the loss. f (N, C) -> (N, C), all positive.

    For targets drawn from P the expected loss has the derivative, with p = softmax(f),

        dL/df_j = ce (p_j - P_j) + 2 others (1 - P_j) f_j + 2 target P_j (f_j - M)

    At the minimum it is zero; that equation is linear in P_j:

        P_j = (ce p_j + 2 others f_j) / (ce + 2 others f_j - 2 target (f_j - M))

    With c = 2 lambda / (C - 1) that is squentropy's (p_j + c f_j) / (1 + c f_j), and rescaled_mse's
    f_j / (k M - (k - 1) f_j). The logits of a real network are not at the minimum, so the quotient may leave [0, 1],
    and its denominator may be zero or negative. If the numerator is positive and the denominator is below it, of
    whatever sign, the logit is too large, and the result is 1. If the numerator is not positive, the logit is too
    small, and the result is the floor. NaN stays NaN, so that a diverged network has no score.

    Squares with a small weight cause a small bias, so the floor is lower for them: it is multiplied by sqrt(lambda),
    which was within 0.001 nats of the best floor for lambda from 0.1 to 0.001, and the read-out becomes softmax as
    lambda goes to 0.
    """
    import torch

    C, tiny = f.shape[-1], torch.finfo(f.dtype).tiny
    # in place where possible: at V = 50,304 every (N, C) tensor counts
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
