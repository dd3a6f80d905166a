"""The declaration of a loss: its parameters with their ranges, its read-outs and its formula.

    MINE = Loss(
        name="mine",
        meaning="cross-entropy and a weak pull of all logits to 0",
        parameters={"mine_weight": Parameter(0.1, "weight of the squares", gt=0)},
        readouts=(SOFTMAX,),
        per_token=formula,          # formula(parameters, logits (N, C), targets (N,)) -> (N,)
    )

The config's keys, their ranges in the JSON Schema, training with large heads, evaluation and the tests are derived from
it. models.losses holds the declarations of this program. A declaration imports no torch; a formula imports it inside
its function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

Parameters = Mapping[str, float]


@dataclass(frozen=True)
class Parameter:
    """One number of a loss. Its range in a config: gt (>), ge (>=), lt (<), le (<=), as in pydantic; always finite.

    meaning: one line, shown by editors. closed: the formula is also defined at the bounds that gt and lt exclude. A
    config does not accept them, because there the loss equals another declared loss (lambda = 0 is cross_entropy).
    """

    default: float
    meaning: str
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    closed: bool = False

    def admits(self, value: float) -> bool:
        """Whether the formula is defined at `value`."""
        return (
            math.isfinite(value)
            and (self.gt is None or value > self.gt or (self.closed and value == self.gt))
            and (self.ge is None or value >= self.ge)
            and (self.lt is None or value < self.lt or (self.closed and value == self.lt))
            and (self.le is None or value <= self.le)
        )

    @property
    def allowed(self) -> str:
        """The range in words, for messages: `above 0 and not above 1`."""
        not_below = self.gt if self.closed else self.ge
        not_above = self.lt if self.closed else self.le
        words = [
            *([f"above {self.gt:g}"] if self.gt is not None and not self.closed else []),
            *([f"not below {not_below:g}"] if not_below is not None else []),
            *([f"below {self.lt:g}"] if self.lt is not None and not self.closed else []),
            *([f"not above {not_above:g}"] if not_above is not None else []),
        ]
        return " and ".join(words)


@dataclass(frozen=True)
class Terms:
    """The coefficients of ce (logsumexp(f) - f_y) + others sum_{j != y} f_j^2 + target (f_y - M)^2."""

    ce: float = 0.0
    others: float = 0.0
    target: float = 0.0
    M: float = 0.0


@dataclass(frozen=True)
class Readout:
    """How logits become probabilities.

    weights: (loss, parameters, logits (N, C) in fp32 or wider) -> (N, C), positive, or their logarithms where `log`.
        The program normalises them, so that the probabilities of every read-out sum to 1.
    monotone: in every row the weights rise with the logits, so that the likeliest class is that of the largest logit.
    of_terms: it needs the loss's `terms`.
    """

    name: str
    meaning: str
    weights: Callable[[Loss, Parameters, Tensor], Tensor]
    log: bool = False
    monotone: bool = False
    of_terms: bool = False


@dataclass(frozen=True)
class Loss:
    """A loss: either a member of the family that `Terms` describes (`terms`), or a function of its own (`per_token`).

    meaning: the formula in a line, f the logits, y the target, C the number of classes.
    parameters: by name. In models.losses the names are <loss>_<symbol>, because they are keys of the config.
    readouts: the default first.
    terms: (parameters, C) -> Terms.
    per_token: (parameters, logits (N, C) in fp32 or wider, targets (N,) int64) -> (N,), differentiable by torch.
    with_gradient: (parameters, logits (n, C), targets (n,)) -> values (n,), their gradient by the logits (n, C); for
        heads of many classes. Without it torch differentiates per_token, a chunk of rows at a time.
    proper: at the minimum of the expected loss the default read-out gives the true distribution. The tests check it.
    Raises ValueError for a declaration that contradicts itself.
    """

    name: str
    meaning: str
    readouts: tuple[Readout, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    terms: Callable[[Parameters, int], Terms] | None = None
    per_token: Callable[[Parameters, Tensor, Tensor], Tensor] | None = None
    with_gradient: Callable[[Parameters, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None
    proper: bool = True

    def __post_init__(self) -> None:
        if (self.terms is None) == (self.per_token is None):
            raise ValueError(f"loss {self.name}: give either terms or per_token")
        if self.with_gradient is not None and self.per_token is None:
            raise ValueError(f"loss {self.name}: with_gradient belongs to per_token, of which it is the gradient")
        if not self.readouts:
            raise ValueError(f"loss {self.name}: give at least one read-out")
        if len({readout.name for readout in self.readouts}) < len(self.readouts):
            raise ValueError(f"loss {self.name}: two read-outs have one name")
        for readout in self.readouts:
            if readout.of_terms and self.terms is None:
                raise ValueError(f"loss {self.name}: read-out {readout.name} needs terms, which a per_token lacks")
        for name, parameter in self.parameters.items():
            if not parameter.admits(parameter.default):
                raise ValueError(f"loss {self.name}: {name} is {parameter.default} by default, outside its own range")


@dataclass(frozen=True)
class Criterion:
    """What a run trains with and is evaluated by: a loss, all of its parameters, and a read-out."""

    loss: Loss
    parameters: Parameters
    readout: Readout


def fill_parameters(loss: Loss, values: Parameters) -> dict[str, float]:
    """All parameters of `loss`, defaults filled in.

    Raises ValueError for a parameter which this loss does not have, and for a value outside its range.
    """
    for name, value in values.items():
        if name not in loss.parameters:
            allowed = ", ".join(loss.parameters) or "none"
            raise ValueError(f"{name} is not a parameter of loss {loss.name}; its parameters: {allowed}")
        parameter = loss.parameters[name]
        if not parameter.admits(value):
            wanted = ", ".join(words for words in ("a finite number", parameter.allowed) if words)
            raise ValueError(f"{name} is {value}; it must be {wanted}")
    return {**{name: parameter.default for name, parameter in loss.parameters.items()}, **values}


def find_readout(loss: Loss, name: str) -> Readout:
    """A read-out of `loss` by its name; `auto` is the first. Raises ValueError for one that it does not have."""
    if name == "auto":
        return loss.readouts[0]
    for readout in loss.readouts:
        if readout.name == name:
            return readout
    allowed = ", ".join(readout.name for readout in loss.readouts)
    raise ValueError(f"readout {name!r} does not exist for loss {loss.name}; allowed: {allowed}")


def registry(*losses: Loss) -> dict[str, Loss]:
    """Losses by name. Raises ValueError where two share a name or a parameter, or two read-outs share a name."""
    table: dict[str, Loss] = {}
    owners: dict[str, str] = {}
    readouts: dict[str, Readout] = {}
    for loss in losses:
        if loss.name in table:
            raise ValueError(f"two losses are called {loss.name}")
        table[loss.name] = loss
        for name in loss.parameters:
            if owners.setdefault(name, loss.name) != loss.name:
                raise ValueError(f"{name} is a parameter of loss {owners[name]} and of {loss.name}")
        for readout in loss.readouts:
            if readouts.setdefault(readout.name, readout) != readout:
                raise ValueError(f"loss {loss.name}: another loss has another read-out called {readout.name}")
    return table
