"""Read YAML configs and specs: safe, strict, with the line of every key.

Differences from plain PyYAML, each of which has caused a user's error: `1e-3` is a number (PyYAML reads a string),
`on`/`yes`/`no` are strings, dates and octals are not guessed, a key given twice is an error, and there are no tags,
anchors or aliases (a file of numbers needs none, and an alias bomb fills the memory).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from data.errors import UserError
from trainer import complaints
from trainer.complaints import Place, dotted, kind_of
from trainer.keys import RuleError

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
class Origin:
    """Where a value was written.

    at: `spec.yaml:12`, or an option of the command line as it was typed (`--set n_layer=0`). key: the place in that
    file; empty for an option, which names its key itself. line: of that file. rank: of the keys of a conflict the one
    with the highest rank was set last, on top of the others, and is to be changed.
    """

    at: str
    key: str = ""
    line: int | None = None
    rank: int = 1

    @property
    def head(self) -> str:
        return f"{self.at}: {self.key}" if self.key else self.at


OPTION = 2  # the rank of what the command line sets


@dataclass(frozen=True)
class YamlFile:
    """A parsed file: its plain value, and the line (from 1) of every key and item by its path.

    origins: of the places whose value was written elsewhere: in another file, or on the command line.
    """

    name: str
    value: Any
    lines: Mapping[Place, int]
    origins: Mapping[Place, Origin] = field(default_factory=dict)

    def origin(self, place: Place) -> Origin:
        """Of a place, or of the nearest enclosing place that has a line."""
        for depth in range(len(place), -1, -1):
            if origin := self.origins.get(place[:depth]):
                return origin
            if line := self.lines.get(place[:depth]):
                return Origin(f"{self.name}:{line}", dotted(place), line)
        return Origin(self.name, dotted(place))

    def line(self, place: Place) -> int | None:
        """The line of a place, or of the nearest enclosing place that has one."""
        return self.origin(place).line

    def where(self, place: Place) -> str:
        """`spec.yaml:12: space.dropout`, for the nearest enclosing place that has a line; or the option."""
        return self.origin(place).head

    def latest(self, keys: Sequence[str]) -> Origin | None:
        """Of the keys' values the one that was set last, of those set together the first key's; None if none was."""
        written = [place for key in keys for place in (*self.lines, *self.origins) if place[:1] == (key,)]
        return max(map(self.origin, written), key=lambda origin: origin.rank, default=None)

    def changed(self, value: Any, origins: Mapping[Place, Origin]) -> YamlFile:
        """The file with another value, parts of which were written elsewhere."""
        kept = {place: line for place, line in self.lines.items() if not _within(place, origins)}
        before = {place: origin for place, origin in self.origins.items() if not _within(place, origins)}
        return YamlFile(self.name, value, kept, {**before, **origins})

    def refusal(self, place: Place, problem: str, kind: str, *keys: str) -> RefusedError:
        """The error for what stands at a place. keys: as of `RefusedError`; default: the place's first part."""
        names = keys or tuple(str(part) for part in place[:1])
        origin = self.origin(place)
        return RefusedError(origin.head, problem, place, names, kind, origin.line)

    @contextmanager
    def blamed(
        self, values: Mapping[str, object], place: Callable[[str], Place] = lambda key: (key,)
    ) -> Iterator[None]:
        """Whatever UserError the block raises, in front of it where the value was written that it is about.

        values: {key: value} of the keys that it can be about, the likeliest first: another where the error has that key
        or its value among its keys, or begins with the key. place: of a key in the file.
        """
        try:
            yield
        except RefusedError:
            raise  # it has its place
        except UserError as error:
            text, named = str(error), {*error.keys}
            heads = {key: (f"{key}: ", f"{key} {value}") for key, value in values.items()}
            others = (key for key, value in values.items() if {key, str(value)} & named or text.startswith(heads[key]))
            key = next(others, next(iter(values)))
            if text.startswith(heads[key]):  # the place says the key
                text = text.removeprefix(key).removeprefix(":").lstrip()
            if self.where(place(key)).endswith(f"={values[key]}"):  # and an option the value
                text = text.removeprefix(f"{values[key]}: ")
            raise self.refusal(place(key), text, error.kind, *(error.keys or (key,))) from error


def _within(place: Place, others: Mapping[Place, Any]) -> bool:
    """Whether a place is one of the others or below one."""
    return any(place[:depth] in others for depth in range(1, len(place) + 1))


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


def scalar(text: str, name: str = "--set") -> Any:
    """The value that `text` would have in a YAML file: for `--set key=value`. name: the option, for errors.

    Raises UserError.
    """
    try:
        value = parse(f"value: {text}", name).value
    except UserError as error:
        problem = str(error).removeprefix(name).removeprefix(f":{error.line}").removeprefix(": ")
        raise UserError(f"{name}: {problem}", kind=error.kind) from None
    if list(value) != ["value"]:
        raise UserError(f"{name}: expected one value on one line", kind="form")
    return value["value"]


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
    first, others = complaints.first_of(error, file.value)
    place = complaints.place_of(first["loc"], file.value)
    origin, own = file.origin(place), first.get("ctx", {}).get("error")
    keys, head, line = tuple(str(part) for part in place[:1]), origin.head, origin.line
    problem = complaints.describe(first, place, model)
    if first["type"] == "missing":
        keys = keys or (str(first["loc"][-1]),)
    if others and first["type"] != "extra_forbidden":  # an unknown key is most often the cause of the others
        problem = f"{problem} (and {others} more)"
    if isinstance(own, RuleError) and not place:  # a rule between keys: its message opens with the first
        keys = own.keys
        if latest := file.latest(keys):
            head, line = latest.at, latest.line
    return RefusedError(head, problem, place, keys, kind_of(first), line)
