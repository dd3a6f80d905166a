"""Refuse a search over a key that has no effect, because the trial's optimizer, schedule or loss does not use it.

A base config may set unused keys; a search over one would spend trials on identical runs. Which optimizer, schedule or
loss uses a key is declared with the key (`used_by`, trainer.keys). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from search.spec.points import Point, Space, assigned, candidates, fields, some_points, typed
from trainer.config import TrainConfig
from trainer.keys import declared, includes
from trainer.yaml_file import RefusedError, YamlFile

_MAX_COMBINATIONS = 10_000  # combinations of the parameters that decide whether a key has an effect


def check_used(space: Space, base: TrainConfig, file: YamlFile) -> None:
    """Check that every parameter has an effect in all points where it exists, and every mapping of a linked parameter
    in at least one.

    file: the spec's, for line numbers. Raises UserError: one line with file, line, key and what to do.
    """
    for name, parameter in space.items():
        for field in fields(name, parameter):
            key = field.partition(".")[0]  # of `optimizer_params.momentum`
            for by, users in declared(TrainConfig)[key].used_by.items():
                if parameter.linked and TrainConfig.model_fields[key].default is None:
                    continue  # the config refuses such a key itself where it is unused
                if parameter.linked:
                    _check_linked(name, field, by, users, space, base, file)
                else:
                    _check_plain(name, by, users, space, base, file)


def _check_plain(name: str, by: str, users: tuple[str, ...], space: Space, base: TrainConfig, file: YamlFile) -> None:
    wrong = next((value for _, value in _values(name, by, space, base) if not includes(users, value)), None)
    if wrong is None:
        return

    def refusal(rest: str, *others: str) -> RefusedError:
        problem = f"belongs to {by}: {' or '.join(users)}{rest}"
        return file.refusal(("space", name), problem, "unused", *dict.fromkeys((name, by, *others)))

    deciding = [own for own in _setting(by, space) if not space[own].linked]
    fitting = [value for own in deciding for value in space[own].choice or [] if includes(users, value)]
    if _setting(by, space) and deciding and not fitting:
        raise refusal(f", but {by} is never that; remove it")
    if deciding:
        options = fitting[0] if len(fitting) == 1 else f"[{', '.join(fitting)}]"
        raise refusal(f" only; add `when: {{{deciding[0]}: {options}}}`", deciding[0])
    if _setting(by, space):
        linked = _setting(by, space)[0]
        raise refusal(f", but {by} is {wrong} in some of {linked}; add a `when`, or remove it", linked)
    raise refusal(f", but {by} is {wrong}; remove one of them")


def _check_linked(
    name: str, field: str, by: str, users: tuple[str, ...], space: Space, base: TrainConfig, file: YamlFile
) -> None:
    """Check that each mapping that sets the key has an effect in at least one point. Raises UserError."""
    met = list(_values(name, by, space, base))
    for index, option in enumerate(space[name].choice or []):
        values = [value for point, value in met if point[name] == option]
        if field in option and values and not any(includes(users, value) for value in values):
            place = ("space", name, "choice", index, field)
            problem = f"belongs to {by}: {' or '.join(users)}, but {by} is {values[0]}; remove one of them"
            raise file.refusal(place, problem, "unused", field, by)


def _values(name: str, by: str, space: Space, base: TrainConfig) -> Iterator[tuple[Point, Any]]:
    """Yield (point, value of the key `by`) for the points in which the parameter `name` exists.

    A point has only the parameters on which `name` and `by` depend.
    """
    names = _with_parents([name, *_setting(by, space)], space)
    subspace = {parameter_name: space[parameter_name] for parameter_name in space if parameter_name in names}
    options = {parameter_name: candidates(parameter_name, parameter) for parameter_name, parameter in subspace.items()}
    for point in some_points(subspace, options, _MAX_COMBINATIONS):
        if name in point:
            value = assigned(subspace, point).get(by)
            yield point, getattr(base, by) if value is None else typed(by, value)


def _setting(by: str, space: Space) -> list[str]:
    """The parameters of the space that may set a config key."""
    return [name for name, parameter in space.items() if by in fields(name, parameter)]


def _with_parents(names: list[str], space: Space) -> set[str]:
    """The parameters and all their ancestors through `when`."""
    reached: set[str] = set()
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += space[name].when or {}
    return reached
