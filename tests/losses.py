"""Every declared loss with several values of its parameters, and toys: what tests of losses run over."""

from __future__ import annotations

import dataclasses

import pytest
from torch import Tensor

from models.loss import Loss, Parameter, Parameters, Terms
from models.losses import LOSSES
from models.readouts import INVERSE, SOFTMAX


def _focal(parameters: Parameters, logits: Tensor, targets: Tensor) -> Tensor:
    log_p = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return -((1 - log_p.exp()) ** parameters["gamma"]) * log_p


# own functions without a gradient of theirs: torch differentiates them
FOCAL = Loss(
    name="focal",
    meaning="-(1 - p_y)^gamma log p_y (Lin et al. 2017, arXiv 1708.02002)",
    parameters={"gamma": Parameter(2.0, "0 is cross-entropy", ge=0)},
    readouts=(SOFTMAX,),
    per_token=_focal,
    proper=False,
)
# a member of the family none of whose coefficients is 0 or 1
MIXED = Loss(
    name="mixed",
    meaning="0.7 cross-entropy + a / C [2 sum_{j != y} f_j^2 + 5 (f_y - 3)^2]",
    parameters={"a": Parameter(0.5, "weight of the squares", gt=0)},
    readouts=(INVERSE, SOFTMAX),
    terms=lambda p, C: Terms(ce=0.7, others=2 * p["a"] / C, target=5 * p["a"] / C, M=3.0),
)
BRIER_BY_TORCH = dataclasses.replace(LOSSES["brier"], name="brier_by_torch", with_gradient=None)
ALL = [*LOSSES.values(), FOCAL, MIXED, BRIER_BY_TORCH]
# whose softmax was measured to be off by more than 0.05 nats per token at the optimum
BIASED = ("squentropy", "mse", "rescaled_mse", "squentropy_coded")


def other_parameters(loss: Loss) -> dict[str, float]:
    """Values that are not the defaults and lie in their ranges."""
    values = {}
    for name, parameter in loss.parameters.items():
        ends = [end for end in (parameter.gt, parameter.ge, parameter.lt, parameter.le) if end is not None]
        tried = [0.3 * parameter.default, parameter.default + 0.3, *(0.3 * parameter.default + 0.7 * e for e in ends)]
        values[name] = next(value for value in tried if parameter.admits(value) and value != parameter.default)
    return values


CASES = [(loss, values) for loss in ALL for values in ([{}, other_parameters(loss)] if loss.parameters else [{}])]


def clipped(loss: Loss, value: float) -> dict[str, float]:
    """One value for all parameters of a loss, but for those whose range ends before it."""
    tops = {name: [top for top in (p.le, p.lt) if top is not None] for name, p in loss.parameters.items()}
    return {name: min([value, *(0.999 * top for top in tops[name])]) for name in loss.parameters}


def name_of(value: object) -> str:
    return value.name if isinstance(value, Loss) else str(value)


each_loss = pytest.mark.parametrize(("loss", "parameters"), CASES, ids=name_of)
