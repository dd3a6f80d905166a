"""The registry of stopping rules by their names in YAML. To register a rule, add one field to `Scheduler`."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer, model_validator

from search.stopping.asha import AshaSettings
from search.stopping.median import MedianSettings
from search.stopping.rule import Settings
from trainer.hints import near

_EXAMPLE = "scheduler: {asha: {first_rung: 1M}}"


def _one_rule(schema: dict[str, Any]) -> None:
    """Make the JSON Schema require exactly one of the properties, not null."""
    refs = {name: property_schema["anyOf"][0] for name, property_schema in schema["properties"].items()}
    schema.update(properties=refs, minProperties=1, maxProperties=1)


class Scheduler(BaseModel):
    """One stopping rule with its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, json_schema_extra=_one_rule)

    asha: AshaSettings | None = None
    median: MedianSettings | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Scheduler:
        names = [name for name in RULES if getattr(self, name) is not None]
        if len(names) != 1:
            got = " and ".join(names) or "none"
            raise ValueError(f"give exactly one of {', '.join(RULES)}; got {got}; for example {_EXAMPLE}")
        return self

    @model_serializer(mode="wrap")
    def _without_the_others(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if value is not None}

    @property
    def name(self) -> str:
        """The rule's name, as in YAML."""
        return next(name for name in RULES if getattr(self, name) is not None)

    @property
    def settings(self) -> Settings:
        settings: Settings = getattr(self, self.name)
        return settings


RULES = tuple(Scheduler.model_fields)


def expected(value: Any) -> str:
    """The error message for a scheduler that is no mapping, with the expected form."""
    meant = near(value, RULES) if isinstance(value, str) else ""
    name = next((rule for rule in RULES if rule in meant), RULES[0])
    return f"expected none or {{{name}: {{first_rung: 1M}}}} (rules: {', '.join(RULES)}), got {value!r}"
