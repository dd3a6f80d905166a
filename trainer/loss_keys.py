"""The config's keys that come from the declared losses: `loss`, `readout`, `loss_params`, a key for each parameter.

    loss: squentropy                  # a loss of models.losses, its parameters as keys
    squentropy_lambda: 0.1

    loss: my_module:MyLoss            # an own `Loss`, its parameters in one mapping
    loss_params: {gamma: 2.0}

Nothing here imports an own loss: a config is checked without running the user's code (see trainer.criterion).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol

from pydantic import AfterValidator, Field, WithJsonSchema

from data.own_code import is_reference
from models.loss import Loss, Parameter
from models.losses import LOSSES, READOUTS
from trainer.hints import near
from trainer.keys import OWN, Key, RuleError

_WORD = r"[A-Za-z_][A-Za-z0-9_]*"
REFERENCE = rf"^{_WORD}(\.{_WORD})*:{_WORD}$"  # for the JSON Schema; data.own_code.is_reference decides


def check_name(value: str) -> str:
    """A declared loss, or `module.path:Name`. Raises RuleError with the nearest name."""
    if value in LOSSES or is_reference(value):
        return value
    if meant := near(value, LOSSES):
        raise RuleError("loss", f"there is no such loss, got {value!r}; {meant}", "unknown")
    raise RuleError("loss", f"expected {', '.join(LOSSES)}, or your own as module:Name, got {value!r}", "unknown")


def _check_own_parameters(values: dict[str, float]) -> dict[str, float]:
    for name in values:
        if not re.fullmatch(_WORD, name):
            raise RuleError("loss_params", f"{name!r} is no name of a parameter: letters, digits and _", "form")
    return values


_NAME_SCHEMA = {"anyOf": [{"type": "string", "enum": [*LOSSES]}, {"type": "string", "pattern": REFERENCE}]}
_OWN_SCHEMA = {"type": "object", "additionalProperties": {"type": "number"}}
DEFAULT = next(iter(LOSSES))

LossName = Annotated[str, AfterValidator(check_name), WithJsonSchema(_NAME_SCHEMA)]
Number = Annotated[float, Field(allow_inf_nan=False)]
OwnParameters = Annotated[
    Annotated[dict[str, Number], AfterValidator(_check_own_parameters), WithJsonSchema(_OWN_SCHEMA)] | None,
    Key(used_by={"loss": (OWN,)}, not_searched="one number of it can be: {field: loss_params.NAME, ...}"),
]
if TYPE_CHECKING:
    ReadoutName = str
else:
    ReadoutName = Literal[("auto", *READOUTS)]


class Keys(Protocol):
    """The keys of the config that concern its loss. The parameters' keys are read by name."""

    @property
    def loss(self) -> str: ...

    @property
    def readout(self) -> str: ...

    @property
    def loss_params(self) -> dict[str, float] | None: ...


def parameter_fields(losses: Mapping[str, Loss]) -> dict[str, Any]:
    """A field of the config for each parameter of each loss, as pydantic.create_model takes them; unset by default."""
    return {
        name: (Annotated[_number(parameter) | None, Key(used_by={"loss": (loss.name,)})], _unset(parameter))
        for loss in losses.values()
        for name, parameter in loss.parameters.items()
    }


def _number(parameter: Parameter) -> Any:
    limits = {name: getattr(parameter, name) for name in ("gt", "ge", "lt", "le")}
    return Annotated[float, Field(**{k: v for k, v in limits.items() if v is not None}, allow_inf_nan=False)]


def _unset(parameter: Parameter) -> Any:
    return Field(default=None, description=f"{parameter.meaning}; default: {parameter.default:g}")


def check(config: Keys) -> None:
    """Check the rules between these keys, besides those of `used_by`. Raises RuleError."""
    if config.loss not in LOSSES:
        return  # trainer.criterion checks an own loss's read-out when it imports the loss
    if config.loss_params is not None:
        own = ", ".join(LOSSES[config.loss].parameters) or "none"
        raise RuleError(
            ("loss_params", "loss"),
            f"loss_params belongs to an own loss (loss: module:Name), but loss is {config.loss}, whose parameters are "
            f"keys: {own}; remove one of them",
            "unused",
        )
    names = ["auto", *(readout.name for readout in LOSSES[config.loss].readouts)]
    if config.readout not in names:
        raise RuleError(
            ("readout", "loss"),
            f"readout: {config.readout} does not exist for loss: {config.loss}; allowed: {', '.join(names)}",
        )


def parameters(config: Keys) -> dict[str, float]:
    """The chosen loss's parameters, with defaults filled in; those of an own loss without, as its code has the
    defaults."""
    if config.loss not in LOSSES:
        return dict(config.loss_params or {})
    values = {name: getattr(config, name) for name in LOSSES[config.loss].parameters}
    defaults = {name: parameter.default for name, parameter in LOSSES[config.loss].parameters.items()}
    return {name: defaults[name] if value is None else value for name, value in values.items()}


def readout(config: Keys) -> str:
    """The chosen read-out's name; `auto` for the default of an own loss, which only its code contains."""
    if config.readout == "auto" and config.loss in LOSSES:
        return LOSSES[config.loss].readouts[0].name
    return config.readout
