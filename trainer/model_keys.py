"""The config's key `model`: our GPT, or a reference to one of the user's own.

    model: gpt

    model: my_module:MyGPT            # an nn.Module, see trainer.build_model
    model_params: {window: 256}       # its arguments

Nothing here imports an own model: a config is checked without running the user's code.
"""

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
