"""Properties of a config's key beyond its type, declared with the key.

    momentum: Annotated[float, Field(ge=0, lt=1), Key(used_by={"optimizer": ("sgd", "muon")})] = 0.9

Search, resume and memory read these declarations through the functions below; none of them keeps a list of keys of
its own. Which keys an optimizer, a schedule or a loss uses is stated here only, and derived elsewhere (`used_keys`).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import BaseModel

from data.own_code import is_reference

OWN = "module:Name"  # in `used_by`: any reference to code of the user's own


@dataclass(frozen=True)
class Key:
    """Properties of one field of `TrainConfig`.

    used_by: {key: values}: the field has an effect only where each of these keys has one of its values.
    memory: it influences the memory of a training step.
    not_searched: why no search may vary it; empty: it may.
    kept: a resumed run must have the checkpoint's value.
    """

    used_by: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    memory: bool = False
    not_searched: str = ""
    kept: bool = False


class RuleError(ValueError):
    """A value breaks a rule of a config or a spec. The keys are data, and the message begins with the first of them.

    keys: the key to change first, then the others that the rule compares it with. The message of a rule between keys
    begins with the first.
    kind: `conflict` of several values, `unused` where another key's value leaves it without an effect, `unknown` for a
    name that does not exist; rules on one value have a word each (`twice`, `outside`, `empty`, `form`).
    """

    def __init__(self, keys: str | tuple[str, ...], message: str, kind: str = "conflict") -> None:
        super().__init__(message)
        self.keys = (keys,) if isinstance(keys, str) else keys
        self.kind = kind


@cache
def declared(model: type[BaseModel]) -> Mapping[str, Key]:
    """The `Key` of every field, by name; the default `Key()` for a field that declares none."""
    return {
        name: next((item for item in info.metadata if isinstance(item, Key)), Key())
        for name, info in model.model_fields.items()
    }


def key_of(model: type[BaseModel], name: str) -> Key:
    """The `Key` of one field. Raises KeyError for a name that the model lacks."""
    return declared(model)[name]


def not_searched(model: type[BaseModel]) -> dict[str, str]:
    """The fields that no search may vary, each with the reason."""
    return {name: key.not_searched for name, key in declared(model).items() if key.not_searched}


def memory_keys(model: type[BaseModel]) -> list[str]:
    """The fields on which the memory of a training step depends, the machine and the optimizer's moments apart."""
    return [name for name, key in declared(model).items() if key.memory]


def kept_keys(model: type[BaseModel]) -> list[str]:
    """The fields in which a resumed run must agree with its checkpoint."""
    return [name for name, key in declared(model).items() if key.kept]


def used_keys(model: type[BaseModel], by: str, value: str) -> list[str]:
    """The fields that have an effect only for some values of the key `by`, `value` among them."""
    return [name for name, key in declared(model).items() if by in key.used_by and includes(key.used_by[by], value)]


def unused(model: type[BaseModel], values: Mapping[str, Any]) -> dict[str, str]:
    """{key: reason}: the fields without an effect in a config of these values; a field that is left out has its
    default."""
    reasons = {}
    for name, key in declared(model).items():
        for by, users in key.used_by.items():
            value = values.get(by, model.model_fields[by].default)
            if not includes(users, value):
                reasons[name] = f"belongs to {by}: {' or '.join(users)}, but {by} is {value}"
                break
    return reasons


def includes(users: Collection[str], value: object) -> bool:
    """Whether a value is among those of a `used_by`.

    >>> includes(("sgd", "muon"), "sgd"), includes(("sgd",), "my_module:Lion"), includes((OWN,), "my_module:Lion")
    (True, False, True)
    """
    return value in users or (OWN in users and is_reference(value))
