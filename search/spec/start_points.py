"""`start:`, points to evaluate first: parsed against the search space, or refused with the line of the error. Pure.

Optuna evaluates an enqueued value outside the distribution and learns from it; here such a value is an error.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from data.errors import nearest
from search.spec.parameter import Parameter
from search.spec.points import Point, Space, candidates, exists, fields, ordered, target, typed, wanted
from search.spec.study_spec import StudySpec
from trainer.complaints import Place, complaint, kind_of
from trainer.config import TrainConfig
from trainer.hints import hint
from trainer.keys import RuleError
from trainer.yaml_file import YamlFile

# the corpus is prepared and rungs are checked for the values of these keys in the space only, so that the start points
# of a grid, too, may have no others
_PREPARED = {"tokenizer", "block_size", "max_tokens"}


def known_points(spec: StudySpec, file: YamlFile | None = None) -> list[Point]:
    """Parse the points of `start`: a choice becomes the option of the space that it equals, a number has its key's
    type.

    A point may leave parameters out, except with `sampler: grid`, which proposes no values for them. With a grid a
    point may have values that the grid does not contain (except of tokenizer, block_size and max_tokens).
    file: the spec's, for line numbers. Raises UserError.
    """
    file = file or YamlFile(f"study {spec.study}", {}, {})
    points: list[Point] = []
    for index, written in enumerate(spec.start):
        place: Place = ("start", index)
        point = _read(written, spec, place, file)
        if point in points:
            raise file.refusal(place, f"the same point as start[{points.index(point)}]; keep one", "twice")
        points.append(point)
    return points


def own_value(name: str, parameter: Parameter, value: Any) -> Any:
    """The value of the space that equals `value`. Raises RuleError, with what is allowed, where there is none."""
    if parameter.choice is not None:
        for option in parameter.choice:
            if _same(name, parameter, option, value):
                return option
        if parameter.linked:
            raise RuleError(name, f"{value!r} is not among its choice: {parameter.choice}", "outside")
        hint = nearest(str(value), map(str, parameter.choice))
        raise RuleError(name, f"{value!r} is not among its choice; {hint}", "outside")
    number = _typed(target(name, parameter), value)
    low, high = candidates(name, parameter)
    if not isinstance(number, int | float) or not low <= number <= high:
        raise RuleError(name, f"{value!r} lies outside {low} to {high}", "outside")
    return number


def refusal(error: ValidationError) -> str:
    """The reason in pydantic's error why a config key does not take a value."""
    return complaint(error.errors()[0])


def _typed(field: str, value: Any) -> Any:
    try:
        return typed(field, value)
    except ValidationError as error:
        raise RuleError(field, refusal(error), kind_of(error.errors()[0])) from None


def _same(name: str, parameter: Parameter, option: Any, value: Any) -> bool:
    try:
        if not parameter.linked:
            field = target(name, parameter)
            return bool(typed(field, option) == typed(field, value))
        if not isinstance(value, dict) or option.keys() != value.keys():
            return False
        return all(typed(field, option[field]) == typed(field, value[field]) for field in option)
    except ValidationError:
        return False


def _read(written: Point, spec: StudySpec, place: Place, file: YamlFile) -> Point:
    space = spec.space
    if not written:
        raise file.refusal(place, f"an empty point; name parameters of the space: {', '.join(space)}", "empty")
    point: Point = {}
    for name, value in written.items():
        try:
            if name not in space:
                raise _stranger(name, space)
            point[name] = _value(name, space[name], value, spec.sampler == "grid")
        except RuleError as error:
            raise file.refusal((*place, name), str(error), error.kind, *error.keys) from None
    for name in point:
        _check_when(name, point, space, (*place, name), file)
    missing = [name for name in ordered(space) if name not in point and exists(space, name, point)]
    if missing and spec.sampler == "grid":
        problem = f"a grid proposes no values itself; give {' and '.join(missing)} too"
        raise file.refusal(place, problem, "missing", *missing)
    return {name: point[name] for name in space if name in point}


def _value(name: str, parameter: Parameter, value: Any, grid: bool) -> Any:
    """`own_value`; for a grid any value that the config key takes. Raises RuleError."""
    try:
        return own_value(name, parameter, value)
    except RuleError:
        if not grid or set(fields(name, parameter)) & _PREPARED:
            raise
    if not parameter.linked:
        return _typed(target(name, parameter), value)
    allowed = fields(name, parameter)
    if not isinstance(value, dict) or not value or not value.keys() <= set(allowed):
        raise RuleError(name, f"expected a mapping of {', '.join(allowed)}, got {value!r}", "form")
    return {field: _typed(field, item) for field, item in value.items()}


def _stranger(name: str, space: Space) -> RuleError:
    """The error for a name that is no parameter of the space."""
    owner = next((own for own, parameter in space.items() if name in fields(own, parameter)), None)
    if owner is not None:
        option = (space[owner].choice or [None])[0]
        message = f"{name} is set by {owner}; give {owner}: {option}, or another of its choice"
        return RuleError((name, owner), message, "linked")
    if name in TrainConfig.model_fields:
        message = f"{name} is not searched; search it, or put it under set; searched: {', '.join(space)}"
        return RuleError(name, message, "not_searched")
    return RuleError(name, f"no such parameter in the space; {hint(name, space)}", "unknown")


def _check_when(name: str, point: Point, space: Space, place: Place, file: YamlFile) -> None:
    for parent, want in (space[name].when or {}).items():
        if parent not in point:
            problem = f"exists only where {parent} is {want}; give {parent} too"
            raise file.refusal(place, problem, "missing", parent, name)
        if not wanted(space, parent, want, point[parent]):
            problem = f"does not exist where {parent} is {point[parent]}, only where it is {want}"
            raise file.refusal(place, problem, "unused", name, parent)
