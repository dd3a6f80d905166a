"""Points of a search space: which conditional parameters exist, enumeration of points, types of values. Pure."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import ConfigDict, TypeAdapter

from search.spec.parameter import Parameter
from trainer.config import TrainConfig

Space = Mapping[str, Parameter]
Point = dict[str, Any]


def target(name: str, parameter: Parameter) -> str:
    """The config key that an unlinked parameter sets."""
    return parameter.field or name


def assigned(space: Space, point: Point) -> dict[str, Any]:
    """The config keys that a point sets, with the mappings of linked parameters flattened."""
    fields: dict[str, Any] = {}
    for name, value in point.items():
        fields.update(value if space[name].linked else {target(name, space[name]): value})
    return fields


def fields(name: str, parameter: Parameter) -> list[str]:
    """The config keys that a parameter may set."""
    if not parameter.linked:
        return [target(name, parameter)]
    return list(dict.fromkeys(field for value in parameter.choice or [] for field in value))


def ordered(space: Space) -> list[str]:
    """The parameters' names in topological order: parents before conditional parameters, else in the spec's order.

    Raises ValueError where `when` conditions form a cycle.
    """
    done: dict[str, None] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise ValueError(f"`when` goes in a circle: {' -> '.join((*path[path.index(name) :], name))}")
        for parent in space[name].when or {}:
            if parent in space:
                visit(parent, (*path, name))
        done[name] = None

    for name in space:
        visit(name, ())
    return list(done)


def exists(space: Space, name: str, point: Point) -> bool:
    """Whether a conditional parameter exists, given its parents' values in `point`."""
    when = space[name].when or {}
    return all(parent in point and wanted(space, parent, want, point[parent]) for parent, want in when.items())


def wanted(space: Space, parent: str, want: Any, value: Any) -> bool:
    """Whether a parent's value satisfies a `when` condition. want: the value or list of values in the condition."""
    options = want if isinstance(want, list) else [want]
    if space[parent].linked:
        return value in options
    field = target(parent, space[parent])
    return any(typed(field, option) == typed(field, value) for option in options)


def apart(first: Parameter, second: Parameter) -> bool:
    """Whether two parameters can never exist in the same point, because their `when` conditions exclude each other."""

    def options(want: Any) -> list[Any]:
        return want if isinstance(want, list) else [want]

    shared = (first.when or {}).keys() & (second.when or {}).keys()
    pairs = [(options((first.when or {})[parent]), options((second.when or {})[parent])) for parent in shared]
    return any(not any(value in theirs for value in ours) for ours, theirs in pairs)


def candidates(name: str, parameter: Parameter) -> list[Any]:
    """The values of a choice; the two ends of a range, as int where the config key is an integer."""
    if parameter.choice is not None:
        return parameter.choice
    is_integer = number_kind(target(name, parameter)) == "int"
    return [int(end) if is_integer else float(end) for end in parameter.log or parameter.uniform or []]


def points(space: Space, values: Mapping[str, Sequence[Any]]) -> Iterator[Point]:
    """Every combination of `values` once; the values of a conditional parameter only where it exists."""

    def extend(point: Point, names: list[str]) -> Iterator[Point]:
        if not names:
            yield {name: point[name] for name in space if name in point}
            return
        name, rest = names[0], names[1:]
        if not exists(space, name, point):
            yield from extend(point, rest)
            return
        for value in values[name]:
            yield from extend({**point, name: value}, rest)

    yield from extend({}, ordered(space))


def drawn(space: Space, values: Mapping[str, list[Any]], rng: random.Random) -> Point:
    """One point with values drawn at random from `values`."""
    point: Point = {}
    for name in ordered(space):
        if exists(space, name, point):
            point[name] = rng.choice(values[name])
    return point


def some_points(space: Space, values: Mapping[str, list[Any]], most: int) -> list[Point]:
    """All points of `values` where there are at most `most`, else `most` random ones (the same on every call)."""
    combinations = list(itertools.islice(points(space, values), most + 1))
    if len(combinations) <= most:
        return combinations
    rng = random.Random(0)
    return [drawn(space, values, rng) for _ in range(most)]


def number_kind(field: str) -> Literal["int", "float"] | None:
    """The kind of numbers that a config key takes; None where a range makes no sense for it."""

    def kinds(annotation: Any) -> set[Any]:
        return {annotation}.union(*(kinds(part) for part in get_args(annotation)))

    if "." in field:  # an entry of a mapping; its whole numbers come by a choice
        return "float"
    types = kinds(TrainConfig.model_fields[field].annotation)
    return "float" if float in types else "int" if int in types and bool not in types else None


def _entry(annotation: Any) -> Any:
    """The type of the values of a key that holds a mapping."""
    if get_origin(annotation) is dict:
        return get_args(annotation)[1]
    return next((kind for part in get_args(annotation) if (kind := _entry(part)) is not None), None)


@cache
def _adapter(field: str) -> TypeAdapter[Any]:
    if "." in field:
        return TypeAdapter(
            _entry(TrainConfig.model_fields[field.partition(".")[0]].annotation), config=ConfigDict(strict=True)
        )
    info = TrainConfig.model_fields[field]
    kind: Any = info.annotation
    for rule in info.metadata:
        kind = Annotated[kind, rule]
    return TypeAdapter(kind, config=ConfigDict(strict=True))


def typed(field: str, value: Any) -> Any:
    """Parse a value as the config does: `2M` of max_tokens is 2_000_000. Raises pydantic's ValidationError."""
    return _adapter(field).validate_python(value)
