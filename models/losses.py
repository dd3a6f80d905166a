"""Losses, and how to read probabilities out of logits that a loss has trained.

But for the Brier score every loss here is of one family. For the logits f of C classes and the true class y:

    L = ce (logsumexp(f) - f_y)  +  others sum_{j != y} f_j^2  +  target (f_y - M)^2

    cross_entropy     ce = 1
    squentropy        ce = 1, others = lambda / (C - 1)              Hui, Belkin & Wright 2023, arXiv 2302.03952
    squentropy_coded  ce = 1, others = 1 / C, target = w / C, M = 1  what the squentropy project's code computed
    rescaled_mse      others = 1 / C, target = k / C, M              Hui & Belkin 2021, arXiv 2006.07322
    mse               rescaled_mse with k = M = 1: the mean over classes of (f_j - [j = y])^2
    brier             sum_j (softmax(f)_j - [j = y])^2               Brier 1950

Rows of the head from n_classes on are padding: no loss sees them, and their gradient is zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import READOUTS, loss_parameters
from models.head import chunked, square_sum, target_logits, wide

# An inverse read-out gives every class at least FLOOR_MASS / C, before it normalises. Of 0.1 ... 1e-5 it was the
# best for rescaled_mse and squentropy_coded, 0.005 nats behind the best for squentropy, 0.013 behind 0.03 for mse
# (shakespeare_char, 4 layers of 128, 1,500 steps).
FLOOR_MASS = 0.01


@dataclass(frozen=True)
class Terms:
    """A member of the family."""

    ce: float = 0.0
    others: float = 0.0
    target: float = 0.0
    M: float = 0.0


def terms(loss: str, parameters: Mapping[str, float], n_classes: int) -> Terms:
    """The coefficients of a loss. ValueError for an unknown loss or parameter, and for brier, which has none."""
    p, C = loss_parameters(loss, parameters), n_classes
    match loss:
        case "cross_entropy":
            return Terms(ce=1.0)
        case "squentropy":
            return Terms(ce=1.0, others=p["squentropy_lambda"] / max(1, C - 1))
        case "squentropy_coded":
            return Terms(ce=1.0, others=1 / C, target=p["squentropy_coded_w"] / C, M=1.0)
        case "rescaled_mse":
            return Terms(others=1 / C, target=p["rescaled_mse_k"] / C, M=p["rescaled_mse_m"])
        case "mse":
            return Terms(others=1 / C, target=1 / C, M=1.0)
    raise ValueError(f"loss {loss} is no sum of cross-entropy and squares")


def per_token_loss(loss: str, parameters: Mapping[str, float], logits: Tensor, targets: Tensor) -> Tensor:
    """The definition. logits (N, C), targets (N,) int64 -> (N,), in fp32 or wider."""
    logits, y = wide(logits), targets[:, None]
    if loss == "brier":
        p = logits.softmax(-1)
        return p.square().sum(-1) - 2 * p.gather(-1, y).squeeze(-1) + 1
    t = terms(loss, parameters, logits.shape[-1])
    total = t.ce * F.cross_entropy(logits, targets, reduction="none") if t.ce else logits.new_zeros(len(logits))
    if t.others or t.target:
        total = total + _squares(t, logits.square().sum(-1), logits.gather(-1, y).squeeze(-1))
    return total


def training_loss(
    loss: str, parameters: Mapping[str, float], hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int
) -> Tensor:
    """The mean of per_token_loss over the logits hidden @ weight[:n_classes].T, never holding all of many logits.

    hidden (N, d), weight (V, d), targets (N,) int64 below n_classes <= V -> scalar, in fp32 or wider.
    A large head's cross-entropy follows autocast; squares never do: they want all the digits of f.
    """
    if n_classes <= hidden.shape[-1]:  # a small head: its logits are no larger than hidden
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(wide(hidden), wide(weight[:n_classes]))
        return per_token_loss(loss, parameters, logits, targets).mean()
    if loss == "brier":
        return chunked("brier", hidden, weight, targets, n_classes)
    t = terms(loss, parameters, n_classes)
    total = t.ce * chunked("cross_entropy", hidden, weight, targets, n_classes) if t.ce else hidden.new_zeros(())
    if t.others or t.target:
        squares = _squares(t, square_sum(hidden, weight[:n_classes]), target_logits(hidden, weight, targets))
        total = total + squares.mean()
    return total


def _squares(t: Terms, square_sum: Tensor, f_y: Tensor) -> Tensor:
    """The family's square terms, from sum_j f_j^2 and f_y of each token, both (N,)."""
    return t.others * (square_sum - f_y.square()) + t.target * (f_y - t.M).square()


@torch.no_grad()
def log_probs(loss: str, parameters: Mapping[str, float], logits: Tensor, readout: str) -> Tensor:
    """Normalised log-probabilities, without gradient. logits (N, C) -> (N, C), in fp32 or wider.

    softmax: what cross_entropy and brier are trained for. inverse: undoes the bias of the squares, see below.
    ValueError for a read-out which the loss does not have.
    """
    if _is_softmax(loss, readout):
        return wide(logits).log_softmax(-1)
    q = _inverse(terms(loss, parameters, logits.shape[-1]), wide(logits))
    return q.div_(q.sum(-1, keepdim=True)).log_()


@torch.no_grad()
def target_log_probs(
    loss: str, parameters: Mapping[str, float], logits: Tensor, targets: Tensor, readout: str
) -> Tensor:
    """log_probs at the targets only: logits (N, C), targets (N,) int64 -> (N,), with fewer passes over the logits."""
    if _is_softmax(loss, readout):
        return -F.cross_entropy(wide(logits), targets, reduction="none")
    q = _inverse(terms(loss, parameters, logits.shape[-1]), wide(logits))
    return (q.gather(-1, targets[:, None]).squeeze(-1) / q.sum(-1)).log()


def _is_softmax(loss: str, readout: str) -> bool:
    loss_parameters(loss, {})
    if readout not in READOUTS[loss]:
        raise ValueError(f"readout {readout!r} does not exist for loss {loss}; allowed: {', '.join(READOUTS[loss])}")
    return readout == "softmax"


def _inverse(t: Terms, f: Tensor) -> Tensor:
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
    C, tiny = f.shape[-1], torch.finfo(f.dtype).tiny
    # in place where it can be: at V = 50,304 every (N, C) counts
    numerator = f.softmax(-1).mul_(t.ce).add_(f, alpha=2 * t.others) if t.ce else 2 * t.others * f
    denominator = (2 * (t.others - t.target) * f).add_(t.ce + 2 * t.target * t.M)
    denominator = torch.maximum(denominator, numerator, out=denominator).clamp_min_(tiny)
    floor = FLOOR_MASS / C * (min(1.0, math.sqrt(t.others * C / t.ce)) if t.ce else 1.0)
    return numerator.div_(denominator).clamp_min_(max(floor, C * tiny))  # so that a normalised one is no zero
