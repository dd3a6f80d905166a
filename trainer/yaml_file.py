"""Read YAML configs and specs: safe, strict, with the line of every key.

Differences from plain PyYAML, each of which has caused a user's error: `1e-3` is a number (PyYAML reads a string),
`on`/`yes`/`no` are strings, dates and octals are not guessed, a key given twice is an error, and there are no tags,
anchors or aliases (a file of numbers needs none, and an alias bomb fills the memory).
"""

from __future__ import annotations

import re
import typing
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from data.errors import UserError, nearest
from trainer.keys import RuleError

Place = tuple[str | int, ...]
_DIGITS = 300  # of a whole number: a longer one fits into no float
Model = TypeVar("Model", bound=BaseModel)


class _Loader(yaml.SafeLoader):
    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event = self.peek_event()
        if getattr(event, "anchor", None) is not None:
            raise yaml.MarkedYAMLError(problem="anchors and aliases are not read", problem_mark=event.start_mark)
        return super().compose_node(parent, index)


_Loader.yaml_implicit_resolvers = {}
for _tag, _pattern, _first in [
    ("bool", r"^(?:true|false)$", "tf"),
    ("null", r"^(?:null|~|)$", ["n", "~", ""]),
    ("int", r"^[-+]?[0-9][0-9_]*$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+.0123456789"),
    ("float", r"^(?:[-+]?\.inf|\.nan)$", "-+."),
]:
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: its plain value, and the line (from 1) of every key and item by its path."""

    name: str
    value: Any
    lines: Mapping[Place, int]

    def line(self, place: Place) -> int | None:
        """The line of a place, or of the nearest enclosing place that has one."""
        while place and place not in self.lines:
            place = place[:-1]
        return self.lines.get(place)

    def where(self, place: Place) -> str:
        """`spec.yaml:12: space.dropout`, for the nearest enclosing place that has a line."""
        line = self.line(place)
        head = f"{self.name}:{line}" if line else self.name
        return f"{head}: {dotted(place)}" if place else head

    def refusal(self, place: Place, problem: str, kind: str, *keys: str) -> RefusedError:
        """The error for what stands at a place. keys: as of `RefusedError`; default: the place's first part."""
        names = keys or tuple(str(part) for part in place[:1])
        return RefusedError(self.where(place), problem, place, names, kind, self.line(place))


def dotted(place: Place) -> str:
    """`("space", "lr", "log", 0)` -> `space.lr.log[0]`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else str(part))
    return text


def read(path: Path) -> YamlFile:
    """Read a YAML mapping from a file.

    Raises UserError with the line for a missing, unreadable or malformed file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file (looked from {Path.cwd()})", kind="missing") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a directory; give the YAML file in it") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file (byte {error.start} is not UTF-8)", kind="text") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> YamlFile:
    """Parse YAML text; `name` stands in for the file in errors. Raises UserError with the line."""
    lines: dict[Place, int] = {}
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            value = None if node is None else _construct(loader, node, (), lines, name)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else None
        at = f":{line}" if line else ""
        problem = f"{name}{at}: not valid YAML: {error.problem or error.context}"
        raise UserError(problem, kind="yaml", line=line) from None
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid YAML: {' '.join(str(error).split())}", kind="yaml") from None
    except RecursionError:
        raise UserError(f"{name}: nested too deeply", kind="yaml") from None
    if not isinstance(value, dict):
        value_kind = "an empty file" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{name}: expected `key: value` lines, got {value_kind}", kind="yaml")
    return YamlFile(name, value, lines)


def scalar(text: str) -> Any:
    """The value that `text` would have in a YAML file: for `--set key=value`. Raises UserError."""
    return parse(f"value: {text}", "--set").value["value"]


def _construct(loader: _Loader, node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> Any:
    lines.setdefault(place, node.start_mark.line + 1)
    kind = node.tag.removeprefix("tag:yaml.org,2002:")
    if kind not in ("map", "seq", "bool", "null", "int", "float", "str"):
        raise _at(name, node, "tag", f"tag {node.tag} is not read; plain values only")
    if isinstance(node, yaml.ScalarNode):
        _check_text(node, name)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[Hashable, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _at(name, key_node, "yaml", "a key must be a word")
            _check_text(key_node, name)
            key = key_node.value
            line = key_node.start_mark.line + 1
            if key in mapping:
                raise _at(name, key_node, "twice", f"{dotted((*place, key))} is given twice; keep one", key)
            lines[(*place, key)] = line
            mapping[key] = _construct(loader, value_node, (*place, key), lines, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(loader, item, (*place, i), lines, name) for i, item in enumerate(node.value)]
    if kind == "int":
        if len(node.value) > _DIGITS:
            raise _at(name, node, "digits", f"a number of {len(node.value)} digits is none of ours")
        return int(node.value.replace("_", ""))  # 010 is ten, not octal eight
    return loader.construct_object(node)


def _check_text(node: yaml.ScalarNode, name: str) -> None:
    """Refuse NUL and lone surrogates, which escapes can write but no file or path can contain. Raises UserError."""
    if re.search("[\0\ud800-\udfff]", node.value):
        raise _at(name, node, "text", f"{node.value!r} is no text that a file can hold")


def _at(name: str, node: yaml.Node, kind: str, problem: str, *keys: str) -> UserError:
    """The error for what stands at a node of the file."""
    line = node.start_mark.line + 1
    return UserError(f"{name}:{line}: {problem}", kind=kind, keys=keys, line=line)


class RefusedError(UserError):
    """A value that a model refuses: the reason as one line, and its parts as data.

    place: in the file. keys: those that the refusal is about, the one to change first.
    problem: the line without the file and its place. kind: of a `RuleError`, or pydantic's type of the error.
    """

    def __init__(
        self, head: str, problem: str, place: Place, keys: tuple[str, ...], kind: str, line: int | None = None
    ) -> None:
        super().__init__(f"{head}: {problem}", kind=kind, keys=keys, line=line)
        self.head, self.problem, self.place = head, problem, place

    def __reduce__(self) -> tuple[Any, ...]:  # Exception's own would call the class with the message alone
        return type(self), (self.head, self.problem, self.place, self.keys, self.kind, self.line)


def validate(model: type[Model], file: YamlFile) -> Model:
    """The file's value as `model`. Raises RefusedError: one line with file, line, key, what it got, what to do."""
    try:
        return model.model_validate(file.value)
    except ValidationError as error:
        raise refused(error, model, file) from None


def refused(error: ValidationError, model: type[BaseModel], file: YamlFile) -> RefusedError:
    """The first of pydantic's errors as one line in our words, with the number of further ones."""
    # an unknown key first: it is most often the cause of the others
    problems = sorted(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
    first = problems[0]
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    place = _place(first["loc"], file.value)
    keys, head, line = tuple(str(part) for part in place[:1]), file.where(place), file.line(place)
    kind = kind_of(first)
    own = first.get("ctx", {}).get("error")
    if first["type"] == "extra_forbidden":
        problem = f"unknown key; {nearest(str(place[-1]), _fields_at(model, place[:-1]))}"
    elif first["type"] == "missing":
        problem = f"{first['loc'][-1]} is missing{more}"
        keys = keys or (str(first["loc"][-1]),)
    else:
        problem = f"{complaint(first)}{more}"
    if isinstance(own, RuleError) and not place:  # a rule between keys: its message opens with the first
        keys = own.keys
        if keys[:1] in file.lines:
            line = file.lines[keys[:1]]
            head = f"{file.name}:{line}"
    return RefusedError(head, problem, place, keys, kind, line)


def kind_of(problem: ErrorDetails) -> str:
    """The kind of one of pydantic's errors: our own rule's, or pydantic's type."""
    own = problem.get("ctx", {}).get("error")
    return own.kind if isinstance(own, RuleError) else problem["type"]


def complaint(problem: ErrorDetails) -> str:
    """The text of one pydantic error: of our own validators unchanged, of pydantic's with the value that it got."""
    if problem["type"] == "value_error":
        return str(problem["ctx"]["error"])
    return f"{problem['msg'][0].lower()}{problem['msg'][1:]}, got {short(problem['input'])}"


def short(value: Any) -> str:
    """A value as Python writes it, at most 60 characters of it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _place(loc: tuple[str | int, ...], value: Any) -> Place:
    """Pydantic's path without the names of union members in it: only the keys and items of the file."""
    place: list[str | int] = []
    for part in loc:
        if isinstance(value, dict) and part in value:
            place.append(part)
            value = value[part]
        elif isinstance(value, list) and isinstance(part, int):
            place.append(part)
            value = value[part]
    return tuple(place)


def _fields_at(model: type[BaseModel], place: Place) -> list[str]:
    """Names allowed at a place, following nested models."""
    current: Any = model
    for part in place:
        if not (isinstance(current, type) and issubclass(current, BaseModel)) or part not in current.model_fields:
            break
        annotation = current.model_fields[str(part)].annotation
        options = [annotation, *typing.get_args(annotation)]
        current = next((o for o in options if isinstance(o, type) and issubclass(o, BaseModel)), None)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return list(current.model_fields)
    return list(model.model_fields)
