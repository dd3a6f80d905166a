"""What pydantic refuses, in our words: what was expected, what stands there, what to write.

A new type of error of pydantic's gets a line in `_WORDS`; tests/test_trainer_complaints.py tries every key with values
of every kind.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Iterator
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from trainer.hints import hint, near
from trainer.keys import RuleError

Place = tuple[str | int, ...]
_WORDS = {  # by pydantic's type of an error; {} are of its context
    "int_type": "expected a whole number",
    "int_from_float": "expected a whole number",
    "float_type": "expected a number",
    "finite_number": "expected a finite number",
    "bool_type": "expected true or false",
    "string_type": "expected a text",
    "list_type": "expected a list, [...]",
    "dict_type": "expected `key: value` pairs",
    "model_type": "expected `key: value` pairs",
    "model_attributes_type": "expected `key: value` pairs",
    "greater_than": "expected more than {gt:g}",
    "greater_than_equal": "expected at least {ge:g}",
    "less_than": "expected less than {lt:g}",
    "less_than_equal": "expected at most {le:g}",
}
_SPELLINGS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}


def dotted(place: Place) -> str:
    """`("space", "lr", "log", 0)` -> `space.lr.log[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def short(value: Any) -> str:
    """A value as Python writes it, at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(problem: ErrorDetails) -> str:
    """The kind of one of pydantic's errors: our own rule's, or pydantic's type."""
    own = problem.get("ctx", {}).get("error")
    return own.kind if isinstance(own, RuleError) else problem["type"]


def first_of(error: ValidationError, value: Any) -> tuple[ErrorDetails, int]:
    """The error to show, and the number of other places that have one. value: what was validated.

    An unknown key first: it is most often the cause of the others. Of a union's members, which all complain of the
    same place, the one that accepts most.
    """
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    at = place_of(first["loc"], value)
    places = {(place_of(each["loc"], value), each["type"] == "missing" and each["loc"]) for each in problems}
    same = [each for each in problems if place_of(each["loc"], value) == at]
    if first["type"] == "int_type":
        first = next((each for each in same if each["type"] == "float_type"), first)
    return first, len(places) - 1


def place_of(loc: tuple[str | int, ...], value: Any) -> Place:
    """Pydantic's path without the names of union members in it: only the keys and items of the file."""
    place: list[str | int] = []
    for part in loc:
        if isinstance(value, dict) and part in value:
            place.append(part)
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            place.append(part)
            value = value[part]
    return tuple(place)


def describe(problem: ErrorDetails, place: Place, model: type[BaseModel]) -> str:
    """The text of one of pydantic's errors on a value of `model`: of our own validators unchanged, else in our words.

    place: of the file. Where the key declares `examples`, one is shown.
    """
    if problem["type"] == "extra_forbidden":
        return f"unknown key; {hint(str(place[-1]), (_resolve(model, place[:-1])[0] or model).model_fields)}"
    if problem["type"] == "missing":
        name = str(problem["loc"][-1])
        return f"{name} is missing{_example(name, _resolve(model, (*place, name))[1])}"
    text = complaint(problem)
    if problem["type"] == "value_error":
        return text
    name = next((str(part) for part in reversed(place) if isinstance(part, str)), "")
    return f"{text}{_example(name, _resolve(model, place)[1])}"


def complaint(problem: ErrorDetails) -> str:
    """The same of a value alone."""
    kind, value, context = problem["type"], problem["input"], problem.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        names = [name.strip("'") for name in context["expected"].replace(" or ", ", ").split(", ")]
        meant = near(value, names) if isinstance(value, str) else ""
        return f"expected {alternatives(names)}, got {short(value)}{f'; {meant}' if meant else ''}"
    if kind in ("too_short", "too_long"):
        n, most = (context["min_length"], "at least") if kind == "too_short" else (context["max_length"], "at most")
        noun = "entry" if isinstance(value, dict) else "item"
        plural = {"entry": "entries", "item": "items"}[noun]
        return f"expected {most} {n} {noun if n == 1 else plural}, got {short(value)}"
    if kind not in _WORDS:
        return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {short(value)}"
    spelling = _SPELLINGS.get(str(value).lower()) if kind == "bool_type" else None
    return f"{_WORDS[kind].format(**context)}, got {short(value)}{f'; write {spelling}' if spelling else ''}"


def alternatives(names: Iterable[str]) -> str:
    """
    >>> alternatives(["a", "b", "c"]), alternatives(["a"])
    ('a, b or c', 'a')
    """
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last


def _example(name: str, field: FieldInfo | None) -> str:
    if field is None or not field.examples:
        return ""
    written = yaml.safe_dump(field.examples[0], default_flow_style=True, sort_keys=False, width=1000).splitlines()[0]
    return f"; for example {name}: {written}"


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models in a type: of `dict[str, Parameter] | None` Parameter."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models(part)


def _resolve(model: type[BaseModel], place: Place) -> tuple[type[BaseModel] | None, FieldInfo | None]:
    """The model whose keys stand at a place, and the field that the place is, each where there is one."""
    current: type[BaseModel] | None = model
    field: FieldInfo | None = None
    named = False  # the next part is a name of the user's in a mapping of models
    for part in place:
        if named or isinstance(part, int):
            named, field = False, None
        elif current is not None and part in current.model_fields:
            field = current.model_fields[part]
            current = next(_models(field.annotation), None)
            named = current is not None and "dict[" in str(field.annotation)
        else:
            return None, None
    return current, field
