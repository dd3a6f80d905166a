"""A searched parameter as a spec writes it: range or choices, the config key that it sets, where it exists. Pure."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from trainer.keys import RuleError
from trainer.lengths import parse_tokens


class Strict(BaseModel):
    """A part of a spec: frozen, unknown keys refused, no conversion between types."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def _end(value: Any) -> Any:
    """Parse a token count (`2M` -> 2_000_000); a value that is no string is returned unchanged."""
    if not isinstance(value, str):
        return value
    try:
        return parse_tokens(value)
    except ValueError:
        raise ValueError(f"expected a number, got {value!r}") from None


End = Annotated[int | float, BeforeValidator(_end, json_schema_input_type=int | float | str)]


class Parameter(Strict):
    """The search range of one parameter: exactly one of log, uniform, choice; with `when`, a conditional parameter. A
    plain list is a choice."""

    log: list[End] | None = Field(default=None, min_length=2, max_length=2, examples=[[1e-4, 1e-2]])
    """log-uniform over [low, high], both ends included; integers where the config's key is an integer"""
    uniform: list[End] | None = Field(default=None, min_length=2, max_length=2, examples=[[0.0, 0.2]])
    """uniform over [low, high], both ends included; integers where the config's key is an integer"""
    choice: list[Any] | None = Field(default=None, min_length=1, examples=[[8, 12]])
    """the list of values; or of mappings that set several config keys together: {n_embd: 384, n_head: 6}"""
    field: str | None = Field(default=None, examples=["learning_rate"])
    """the config key that this parameter sets; default: the parameter's name. With it, each loss can have a learning
    rate of its own: {field: learning_rate, log: [1e-3, 1e-1], when: {loss: mse}}"""
    when: dict[str, Any] | None = Field(default=None, min_length=1, examples=[{"loss": "squentropy"}])
    """{parameter: value or [values]}: a conditional parameter; it exists only in points where all of these hold"""

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if isinstance(value, list):
            return {"choice": value}
        if not isinstance(value, dict):
            message = (
                "expected {log: [low, high]}, {uniform: [low, high]} or {choice: [...]} "
                f"(a fixed value belongs under set), got {value!r}"
            )
            raise RuleError((), message, "form")
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        kinds = [kind for kind in ("log", "uniform", "choice") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            message = f"give exactly one of log, uniform, choice; got {' and '.join(kinds) or 'none'}"
            raise RuleError(("log", "uniform", "choice"), message, "not_one")
        if self.choice is not None:
            if len({repr(value) for value in self.choice}) < len(self.choice):
                raise RuleError("choice", f"choice names a value twice: {self.choice}", "twice")
            if len({isinstance(value, dict) for value in self.choice}) > 1:
                raise RuleError("choice", "choice mixes mappings and plain values; use one kind", "mixed")
            if self.linked and self.field is not None:
                message = "field names one key, but the choice's mappings set several; remove it"
                raise RuleError(("field", "choice"), message)
            return self
        low, high = self.log or self.uniform or []
        if not (math.isfinite(low) and math.isfinite(high)):
            raise RuleError(kinds[0], f"{kinds[0]}: [{low}, {high}] has no end; use finite numbers", "not_finite")
        if not low < high:
            message = f"{kinds[0]}: [{low}, {high}] is an empty range; the first end must be the smaller"
            raise RuleError(kinds[0], message, "empty")
        if self.log is not None and low <= 0:
            message = f"log: [{low}, {high}] touches zero; use a positive lower end, or uniform"
            raise RuleError("log", message, "not_positive")
        return self

    @property
    def linked(self) -> bool:
        """Whether each choice is a mapping that sets several config keys."""
        return self.choice is not None and isinstance(self.choice[0], dict)
