"""The config's key `model`: our GPT, or a reference to one of the user's own. Nothing is imported here."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, WithJsonSchema

from data.own_code import is_reference
from trainer.keys import OWN, RuleError
from trainer.loss_keys import REFERENCE

GPT = "gpt"


def check_name(value: str) -> str:
    """`gpt`, or `module.path:Name`. Raises RuleError."""
    if value != GPT and not is_reference(value):
        raise RuleError("model", f"no model {value!r}; use {GPT}, or your own as {OWN}", "unknown")
    return value


_SCHEMA = {"anyOf": [{"type": "string", "enum": [GPT]}, {"type": "string", "pattern": REFERENCE}]}
ModelName = Annotated[str, AfterValidator(check_name), WithJsonSchema(_SCHEMA)]
