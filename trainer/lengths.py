"""Parse numbers as people write them (`500k`, `20M` or `2B` tokens, `7 epochs`); field types of a config for them."""

from __future__ import annotations

import math
import re
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainValidator, WithJsonSchema

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def parse_tokens(value: Any) -> int:
    """`50M` -> 50_000_000. Accepts whole numbers and numbers with k, M or B. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        raise ValueError(f"expected a number of tokens like 500k, 20M or 2B, got {value!r}")
    match = re.fullmatch(r"([0-9][0-9_]*(?:\.[0-9]+)?(?:[eE]\+?[0-9]+)?)\s*([kKmMbB]?)", str(value).strip())
    if not match:
        raise ValueError(f"expected a number of tokens like 500k, 20M or 2B, got {value!r}")
    tokens = float(match[1].replace("_", "")) * _UNITS[match[2].lower()]
    if tokens < 1 or tokens != int(tokens) or tokens > 10**16:
        raise ValueError(f"expected a whole number of tokens from 1 to 1e16, got {value!r}")
    return int(tokens)


def parse_length(value: Any) -> int | str:
    """Tokens as in `parse_tokens`, or `7 epochs` (kept as that text). Raises ValueError."""
    if isinstance(value, str) and (match := re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*epochs?", value.strip())):
        if float(match[1]) <= 0:
            raise ValueError(f"expected more than 0 epochs, got {value!r}")
        return f"{match[1]} epochs"
    try:
        return parse_tokens(value)
    except ValueError:
        raise ValueError(f"expected tokens (500k, 20M, 2B) or epochs (`7 epochs`), got {value!r}") from None


def parse_number(value: Any) -> int | float:
    """A finite number, whole or not, as it is. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < math.inf:
        raise ValueError(f"expected a finite number, got {value!r}")
    return value


def parse_value(value: Any) -> bool | int | float | str:
    """A finite number, a truth value or a text, as it is. Raises ValueError."""
    if isinstance(value, bool | str):
        return value
    if not isinstance(value, int | float) or not abs(value) < math.inf:
        raise ValueError(f"expected a finite number, true, false or a text, got {value!r}")
    return value


_TOKENS_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": "^[0-9._]+ ?[kKmMbB]?$"}]}
_LENGTH_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string"}]}
Tokens = Annotated[int, BeforeValidator(parse_tokens), WithJsonSchema(_TOKENS_SCHEMA)]
Length = Annotated[int | str, BeforeValidator(parse_length), WithJsonSchema(_LENGTH_SCHEMA)]
Number = Annotated[int | float, PlainValidator(parse_number), WithJsonSchema({"type": "number"})]
Value = Annotated[
    bool | int | float | str, PlainValidator(parse_value), WithJsonSchema({"type": ["number", "boolean", "string"]})
]
