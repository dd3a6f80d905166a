"""The losses of this program. To add one, add a declaration to `LOSSES`; nothing else is needed.

Every loss here except the Brier score belongs to one family. For the logits f of C classes and the true class y:

    L = ce (logsumexp(f) - f_y)  +  others sum_{j != y} f_j^2  +  target (f_y - M)^2

A loss outside the family gives its formula as a function (`per_token`). See models.loss for what a declaration says.
The first loss is the config's default.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.loss import Loss, Parameter, Parameters, Terms, registry
from models.readouts import INVERSE, SOFTMAX

if TYPE_CHECKING:
    from torch import Tensor


def _brier(parameters: Parameters, logits: Tensor, targets: Tensor) -> Tensor:
    p = logits.softmax(-1)
    return p.square().sum(-1) - 2 * p.gather(-1, targets[:, None]).squeeze(-1) + 1


def _brier_with_gradient(parameters: Parameters, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    y, p = targets[:, None], logits.softmax(-1)
    p_y, squares = p.gather(1, y), p.square().sum(-1, keepdim=True)
    gradient = 2 * p * (p - squares + p_y)
    gradient.scatter_add_(1, y, -2 * p_y)
    return (squares - 2 * p_y + 1).squeeze(1), gradient


LOSSES = registry(
    Loss(
        name="cross_entropy",
        meaning="logsumexp(f) - f_y",
        readouts=(SOFTMAX,),
        terms=lambda p, C: Terms(ce=1.0),
    ),
    Loss(
        name="squentropy",
        meaning="cross-entropy + lambda / (C - 1) sum_{j != y} f_j^2 (Hui, Belkin & Wright 2023, arXiv 2302.03952)",
        parameters={
            "squentropy_lambda": Parameter(
                1.0, "weight of the squares; the paper's is 1; searched in [1e-3, 1]", gt=0, closed=True
            )
        },
        readouts=(INVERSE, SOFTMAX),
        terms=lambda p, C: Terms(ce=1.0, others=p["squentropy_lambda"] / max(1, C - 1)),
    ),
    Loss(
        name="mse",
        meaning="the mean over classes of (f_j - [j = y])^2, which is rescaled_mse with k = M = 1",
        readouts=(INVERSE, SOFTMAX),
        terms=lambda p, C: Terms(others=1 / C, target=1 / C, M=1.0),
    ),
    Loss(
        name="rescaled_mse",
        meaning="1 / C [k (f_y - M)^2 + sum_{j != y} f_j^2] (Hui & Belkin 2021, arXiv 2006.07322)",
        parameters={
            "rescaled_mse_k": Parameter(15.0, "weight k of the true class; the paper's for ImageNet is 15", gt=0),
            "rescaled_mse_m": Parameter(
                30.0, "the logit M that the true class is drawn to; the paper's for ImageNet is 30", gt=0
            ),
        },
        readouts=(INVERSE, SOFTMAX),
        terms=lambda p, C: Terms(others=1 / C, target=p["rescaled_mse_k"] / C, M=p["rescaled_mse_m"]),
    ),
    Loss(
        name="brier",
        meaning="sum_j (softmax(f)_j - [j = y])^2 (Brier 1950)",
        readouts=(SOFTMAX,),
        per_token=_brier,
        with_gradient=_brier_with_gradient,
    ),
    Loss(
        name="squentropy_coded",
        meaning="cross-entropy + 1 / C [sum_{j != y} f_j^2 + w (f_y - 1)^2], as the squentropy project's code",
        parameters={
            "squentropy_coded_w": Parameter(65.0, "weight w of the true class's square", gt=0, closed=True),
        },
        readouts=(INVERSE, SOFTMAX),
        terms=lambda p, C: Terms(ce=1.0, others=1 / C, target=p["squentropy_coded_w"] / C, M=1.0),
    ),
)

# the names that a config's `readout` may have
READOUTS = tuple(dict.fromkeys(readout.name for loss in LOSSES.values() for readout in loss.readouts))


def find(name: str) -> Loss:
    """A loss of this program by its name. Raises ValueError for an unknown one."""
    if name not in LOSSES:
        raise ValueError(f"loss is {name!r}; allowed: {', '.join(LOSSES)}")
    return LOSSES[name]
