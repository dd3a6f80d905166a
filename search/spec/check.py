"""Whether a spec and its base config fit together. Pure: no torch, no Ray.

`check` finds every mistake that does not depend on the data; `check_length` the others, once the corpus is prepared.
Each mistake is one line with file, line and key.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from search.spec.objective import OBJECTIVES, for_tokenizers
from search.spec.parameter import Parameter
from search.spec.points import (
    Space,
    apart,
    candidates,
    fields,
    number_kind,
    ordered,
    points,
    some_points,
    target,
    typed,
    wanted,
)
from search.spec.space import configure, lengths, readable, values_of
from search.spec.start_points import known_points, refusal
from search.spec.study_spec import StudySpec
from search.spec.unused import check_used
from trainer.complaints import Place, kind_of
from trainer.config import TrainConfig, has_key
from trainer.hints import hint
from trainer.keys import not_searched
from trainer.yaml_file import RefusedError, YamlFile

_MAX_COMBINATIONS = 10_000  # of values, each checked as a whole config before a study starts
_LARGEST_GRID = 100_000  # points
_LONGEST_NAME = 200  # characters of a parameter's name


def check(spec: StudySpec, base: TrainConfig, file: YamlFile) -> None:
    """Check a spec against its base config, as far as that does not depend on the data.

    file: the spec's, for line numbers. Raises UserError: one line with file, line, key and what to do.
    """
    _check_names(spec.space, file)
    taken: dict[str, str] = {}
    for place, (name, parameter) in enumerate(spec.space.items()):
        before = list(spec.space)[:place]
        for field in fields(name, parameter):
            _check_field(name, parameter, field, spec, file)
            rivals = [other for other in before if field in fields(other, spec.space[other])]
            if rival := next((other for other in rivals if not apart(parameter, spec.space[other])), None):
                raise _refusal(
                    file,
                    (name,),
                    f"sets {field}, as space.{rival} does; keep one of them, or let each exist where the other does "
                    "not (when)",
                    "conflict",
                    name,
                    rival,
                )
            taken[field] = name
        _check_values(name, parameter, file)
    for name, parameter in spec.space.items():
        _check_when(name, parameter, spec.space, file)
    try:
        ordered(spec.space)
    except ValueError as error:
        raise file.refusal(("space",), str(error), "circle") from None
    check_used(spec.space, base, file)
    if "tokenizer" in taken and not OBJECTIVES[spec.objective].compares_tokenizers:
        raise _refusal(
            file,
            (taken["tokenizer"],),
            f"{spec.objective} counts each tokenizer's own tokens, so it cannot compare tokenizers; use objective: "
            f"{for_tokenizers().name}",
            "conflict",
            "objective",
            "tokenizer",
        )
    _check_grid(spec, file)
    _check_learns(spec, file)
    _check_rungs(spec, [value for value in values_of("max_tokens", spec, base) if isinstance(value, int)], file)
    _check_combinations(spec, base, taken, file)


def check_length(spec: StudySpec, base: TrainConfig, tokens_per_epoch: int, file: YamlFile | None = None) -> None:
    """Check the rungs against the lengths of trials, which depend on the data. Raises UserError."""
    _check_rungs(spec, lengths(spec, base, tokens_per_epoch), file or YamlFile(f"study {spec.study}", {}, {}))


def _check_rungs(spec: StudySpec, lengths: list[int], file: YamlFile) -> None:
    if spec.scheduler is None or not lengths:
        return
    for key, problem in spec.scheduler.settings.problems(min(lengths), max(lengths)):
        raise file.refusal(("scheduler", spec.scheduler.name, key), problem, "conflict", key, "max_tokens")


def _refusal(file: YamlFile, place: Place, problem: str, kind: str, *keys: str) -> RefusedError:
    """The error for a place in the space. keys: as of `RefusedError`; default: the parameter."""
    return file.refusal(("space", *place), problem, kind, *(keys or (str(place[0]),)))


def _check_names(space: Space, file: YamlFile) -> None:
    """A parameter may have any name that fits on a line of a table, and no two the same one there."""
    linked = {f"{name}.{key}": name for name, item in space.items() if item.linked for key in fields(name, item)}
    for name in space:
        if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
            problem = f"a name has 1 to {_LONGEST_NAME} printable characters, not all of them spaces; rename it"
            raise _refusal(file, (name,), problem, "name")
        if name in linked:
            problem = f"tables call a key of space.{linked[name]} so; rename one of them"
            raise _refusal(file, (name,), problem, "twice", name, linked[name])


def _check_field(name: str, parameter: Parameter, field: str, spec: StudySpec, file: YamlFile) -> None:
    if not has_key(field):
        place: Place = (name,)
        if parameter.linked:
            index = next(i for i, value in enumerate(parameter.choice or []) if field in value)
            place = (name, "choice", index, field)
        raise _refusal(file, place, f"unknown parameter; {hint(field, TrainConfig.model_fields)}", "unknown", field)
    if reason := not_searched(TrainConfig).get(field):
        raise _refusal(file, (name,), f"{field} cannot be searched: {reason}", "not_searched", field)
    if field in spec.set:
        problem = f"{field} is searched too ({file.where(('space', name))}); remove one of them"
        raise file.refusal(("set", field), problem, "conflict", *dict.fromkeys((field, name)))


def _check_values(name: str, parameter: Parameter, file: YamlFile) -> None:
    """Check each value of a parameter against the type and limits of its config key. Raises UserError."""
    if parameter.choice is not None:
        seen: list[Any] = []
        for index, value in enumerate(parameter.choice):
            place: Place = (name, "choice", index)
            if parameter.linked:
                if not value:
                    problem = "an empty mapping; name the parameters that go together"
                    raise _refusal(file, place, problem, "empty")
                read: Any = {field: _typed(field, item, (*place, field), file) for field, item in value.items()}
            else:
                read = _typed(target(name, parameter), value, place, file)
            if read in seen:
                raise _refusal(file, place, f"{value!r} is given twice; keep one", "twice")
            seen.append(read)
        return
    kind, ends = ("log", parameter.log) if parameter.log is not None else ("uniform", parameter.uniform or [])
    field = target(name, parameter)
    number = number_kind(field)
    if number is None:
        problem = f"{field} takes no numbers, so it has no range; use choice"
        raise _refusal(file, (name, kind), problem, "no_range", field)
    if field in ("n_embd", "n_head"):
        problem = "n_embd must be divisible by n_head, not so in a range; use choice"
        raise _refusal(file, (name, kind), problem, "no_range", "n_embd", "n_head")
    for index, end in enumerate(ends):
        if number == "int" and end != int(end):
            problem = f"{field} takes whole numbers, got {end}"
            raise _refusal(file, (name, kind, index), problem, "not_whole", field)
        _typed(field, int(end) if number == "int" else end, (name, kind, index), file)


def _typed(field: str, value: Any, place: Place, file: YamlFile) -> Any:
    try:
        return typed(field, value)
    except ValidationError as error:
        raise _refusal(file, place, refusal(error), kind_of(error.errors()[0]), field) from None


def _check_when(name: str, parameter: Parameter, space: Space, file: YamlFile) -> None:
    for parent, want in (parameter.when or {}).items():
        place = (name, "when", parent)
        if parent not in space:
            if parent in TrainConfig.model_fields:
                problem = f"{parent} is not searched, so it cannot decide; search it or drop the `when`"
                raise _refusal(file, place, problem, "not_searched", parent)
            problem = f"no such parameter in the space; {hint(parent, space)}"
            raise _refusal(file, place, problem, "unknown", parent)
        offered = space[parent].choice
        if offered is None:
            problem = f"{parent} is a range; `when` needs a parent with a choice"
            raise _refusal(file, place, problem, "no_choice", parent)
        for option in want if isinstance(want, list) else [want]:
            try:
                matches = any(wanted(space, parent, [option], value) for value in offered)
            except ValidationError:
                matches = False
            if not matches:
                problem = f"{parent} is never {option!r}; its choice is {offered}"
                raise _refusal(file, place, problem, "never", parent)


def _check_grid(spec: StudySpec, file: YamlFile) -> None:
    if spec.sampler != "grid":
        return
    for name, parameter in spec.space.items():
        if parameter.choice is None:
            kind = "log" if parameter.log is not None else "uniform"
            problem = "a grid has no points in a range; use choice: [...]"
            raise _refusal(file, (name, kind), problem, "no_range", name, "sampler")
    values = {name: parameter.choice or [] for name, parameter in spec.space.items()}
    if sum(1 for _ in zip(points(spec.space, values), range(_LARGEST_GRID + 1), strict=False)) > _LARGEST_GRID:
        problem = f"a grid of more than {_LARGEST_GRID:,} points; use sampler: random"
        raise file.refusal(("space",), problem, "too_many", "sampler")


def _check_learns(spec: StudySpec, file: YamlFile) -> None:
    if spec.warm_start is not None and spec.sampler in ("grid", "random"):
        raise file.refusal(
            ("warm_start",),
            f"sampler: {spec.sampler} learns from no trial, so an earlier study's are no use to it; use sampler: tpe "
            "or gp, or remove warm_start",
            "unused",
            "warm_start",
            "sampler",
        )


def _check_combinations(spec: StudySpec, base: TrainConfig, taken: dict[str, str], file: YamlFile) -> None:
    """Check the configs of all combinations of choices and ends of ranges, and the same for each start point's free
    parameters. Of more than 10,000 combinations 10,000 random ones are checked. Raises UserError."""
    values = {name: candidates(name, parameter) for name, parameter in spec.space.items()}
    _check_configs(spec, base, values, ("space",), taken, file)
    for index, start_point in enumerate(known_points(spec, file)):
        start_values = {**values, **{name: [value] for name, value in start_point.items()}}
        _check_configs(spec, base, start_values, ("start", index), taken, file)


def _check_configs(
    spec: StudySpec, base: TrainConfig, values: dict[str, list[Any]], at: Place, taken: dict[str, str], file: YamlFile
) -> None:
    most = _MAX_COMBINATIONS if at == ("space",) else _MAX_COMBINATIONS // len(spec.start)
    for point in some_points(spec.space, values, most):
        try:
            configure(base, spec.space, point)
        except RefusedError as error:
            culprit = next((taken[key] for key in error.keys if key in taken), None)
            place = at if culprit is None else (*at, culprit)
            problem = f"{error.problem} (at {readable(point)})"
            raise file.refusal(place, problem, error.kind, *error.keys) from None
