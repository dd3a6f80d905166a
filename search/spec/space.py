"""The space of a spec: from a point to the config of its trial, its name, and the values that a key may have. Pure.

No torch, no Ray. search.spec.check says whether a spec and its base config fit together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from search.spec.parameter import Parameter
from search.spec.points import Point, Space, assigned, candidates, fields, typed
from search.spec.study_spec import StudySpec
from trainer.config import TrainConfig, replace
from trainer.keys import unused
from trainer.units import count

_SHORT = {"learning_rate": "lr", "weight_decay": "wd", "batch_size": "batch", "max_tokens": "tokens"}
_LETTER = {"n_layer": "L", "n_head": "H", "n_embd": "D", "block_size": "T"}
# shown by value alone
_PLAIN = ("model", "loss", "optimizer", "schedule", "tokenizer", "mlp", "norm", "position")


def configure(base: TrainConfig, space: Space, point: Point) -> TrainConfig:
    """Build the config of a point: the base config with the point's values set.

    A key with the default None that the base sets and this point does not use (the parameter of another loss, say) is
    reset to None. Raises yaml_file.RefusedError for a combination that no config allows.
    """
    changes = assigned(space, point)
    idle = unused(TrainConfig, {**base.model_dump(), **changes})
    foreign = {name: None for name in idle if TrainConfig.model_fields[name].default is None}
    return replace(base, **{**foreign, **changes})


def configuration(config: Mapping[str, Any]) -> str:
    """A text that is equal for configs that train the same model: without the keys that have no effect.

    config: as plain data, in a journal; a key that its release did not have has its default.
    """
    values = {**_defaults(), **config}
    idle = unused(TrainConfig, values)
    return json.dumps({key: value for key, value in values.items() if key not in idle}, sort_keys=True, default=str)


@cache
def _defaults() -> dict[str, Any]:
    return TrainConfig().model_dump(mode="json")


def described(parameter: Parameter) -> str:
    """A parameter's range or choices, and where it exists, for people.

    >>> described(Parameter(log=[1e-3, 1], when={"loss": "squentropy"}))
    '0.001 to 1, logarithmic (where loss is squentropy)'
    """
    if parameter.choice is not None:
        text = ", ".join("null" if value is None else str(value).replace("'", "") for value in parameter.choice)
    else:
        low, high = parameter.log or parameter.uniform or []
        text = f"{low} to {high}" + (", logarithmic" if parameter.log else "")
    when = " and ".join(f"{name} is {value}" for name, value in (parameter.when or {}).items())
    return f"{text} (where {when})" if when else text


def readable(point: Point) -> str:
    """A short text for a point, for tables and names.

    >>> readable({"learning_rate": 3.1e-4, "n_layer": 8, "loss": "squentropy"})
    'lr=3.1e-4 L8 squentropy'
    """
    words = []
    for name, value in point.items():
        if isinstance(value, dict):
            words.append(readable(value))
        elif name in _LETTER:
            words.append(f"{_LETTER[name]}{value}")
        elif name in _PLAIN:
            words.append(str(value))
        else:
            words.append(f"{_SHORT.get(name, name)}={_number(name, value)}")
    return " ".join(words)


def _number(name: str, value: Any) -> str:
    if name == "max_tokens" and isinstance(value, int):
        return count(value)
    if not isinstance(value, float):
        return str(value)
    if value and not 0.01 <= abs(value) < 10_000:
        digits, exponent = f"{value:.1e}".split("e")
        return f"{digits.removesuffix('.0')}e{int(exponent)}"
    return f"{value:.3g}"


def tokenizers(spec: StudySpec, base: TrainConfig) -> list[str]:
    """The distinct tokenizers that trials may use; the corpus is prepared once for each."""
    return values_of("tokenizer", spec, base)


def values_of(field: str, spec: StudySpec, base: TrainConfig) -> list[Any]:
    """The values that a config key may take in trials, parsed as the config does; of a range its two ends."""
    values: list[Any] = []
    for name, parameter in spec.space.items():
        if field in fields(name, parameter):
            for value in candidates(name, parameter):
                values.append(value.get(field, getattr(base, field)) if parameter.linked else value)
        if field in fields(name, parameter) and parameter.when:
            values.append(getattr(base, field))
    return list(dict.fromkeys(typed(field, value) for value in values)) or [getattr(base, field)]


def lengths(spec: StudySpec, base: TrainConfig, tokens_per_epoch: int) -> list[int]:
    """The lengths of trials in tokens: the values of max_tokens, with epochs converted to tokens.

    tokens_per_epoch: targets in the train split.
    """
    values = values_of("max_tokens", spec, base)
    return [base.model_copy(update={"max_tokens": value}).length(tokens_per_epoch) for value in values]
