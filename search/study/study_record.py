"""The study record of a journal, parsed once into types: `Study.header`.

Parsing never fails where this release is stricter than the one that wrote the record: unknown keys are left out and
refused values are replaced by the defaults. Both are listed, for code that needs the record exactly.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, ValidationError

from search.spec.study_spec import Budget, StudySpec
from search.study.journal import Record
from trainer.config import TrainConfig

Model = TypeVar("Model", bound=BaseModel)
UNKNOWN = "unknown"
_TRIES = 100  # attempts; a check of this release may fail only after an earlier failure was mended


@dataclass(frozen=True)
class Tokenized:
    """The study's data under one tokenizer. floor: the lower bound of the score by metric, empty where unknown."""

    hash: str = ""
    classes: int | None = None
    train_tokens: int = 0
    val_tokens: int = 0
    floor: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Data:
    """The data of a study. hash: "" where the record has none. floor: by metric; tokenizers: by name."""

    corpus: str = UNKNOWN
    tokenizer: str = UNKNOWN
    hash: str = ""
    floor: Mapping[str, float] = field(default_factory=dict)
    tokenizers: Mapping[str, Tokenized] = field(default_factory=dict)


@dataclass(frozen=True)
class Reading(Generic[Model]):
    """A pydantic model parsed from a record. unknown: keys that this release does not have; refused: keys whose values
    it does not accept and which have their defaults instead."""

    model: Model
    unknown: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()

    @property
    def exact(self) -> bool:
        return not self.unknown and not self.refused


@dataclass(frozen=True)
class Header:
    """The parsed study record. record: as it is in the journal; {} before a driver has written one.

    packages: versions by name. host: name, system, cpu, cpus, memory_gb, as far as recorded.
    own_code: sha256 of the source by reference, of the user's own code that the study names.
    precision: what `dtype: auto` was settled to on CPUs (dtype, speedup of bfloat16, machine); {} where it was not.
    workers: slots (trials at once), cpus and gpus of each; {} where the release did not write them.
    directory: the driver's working directory, from which relative paths of a config are meant; "" where unknown.
    """

    record: Record = field(default_factory=dict)
    version: int = 1
    data: Data = field(default_factory=Data)
    rungs: tuple[int, ...] = ()
    commit: str = ""
    dirty: bool | None = None
    packages: Mapping[str, str] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)
    workers: Mapping[str, float] = field(default_factory=dict)
    own_code: Mapping[str, str] = field(default_factory=dict)
    directory: str = ""
    precision: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def spec_reading(self) -> Reading[StudySpec]:
        return read_spec(self.record.get("spec") or {})

    @cached_property
    def base_reading(self) -> Reading[TrainConfig]:
        return _read(TrainConfig, self.record.get("base") or {}, {})

    @property
    def spec(self) -> StudySpec:
        return self.spec_reading.model

    @property
    def base(self) -> TrainConfig:
        return self.base_reading.model

    @property
    def name(self) -> str:
        return self.spec.study

    @property
    def spec_as_written(self) -> dict[str, Any]:
        return dict(self.record.get("spec") or {})

    @property
    def code(self) -> str:
        """The git commit, as text for tables and reports."""
        return (self.commit or UNKNOWN) + (" with uncommitted changes" if self.dirty else "")


def read_header(record: Record) -> Header:
    """Parse a study record that `record_shapes.check` accepts. Fields missing from older releases get defaults."""
    return Header(
        record,
        version=record.get("version") or 1,
        data=_data(record.get("data") or {}),
        rungs=tuple(sorted(record.get("rungs") or [])),
        commit=str(record.get("commit") or ""),
        dirty=record.get("dirty"),
        packages={name: str(version) for name, version in (record.get("packages") or {}).items()},
        host=record.get("host") or {},
        workers=record.get("workers") or {},
        own_code=record.get("own_code") or {},
        directory=record.get("directory") or "",
        precision=record.get("precision") or {},
    )


def _data(record: dict[str, Any]) -> Data:
    return Data(
        corpus=record.get("corpus") or UNKNOWN,
        tokenizer=record.get("tokenizer") or UNKNOWN,
        hash=record.get("hash") or "",
        floor=record.get("floor") or {},
        tokenizers={name: _tokenized(tokenized) for name, tokenized in (record.get("tokenizers") or {}).items()},
    )


def _tokenized(record: dict[str, Any]) -> Tokenized:
    return Tokenized(
        hash=record.get("hash") or "",
        classes=record.get("classes"),
        train_tokens=record.get("train_tokens") or 0,
        val_tokens=record.get("val_tokens") or 0,
        floor=record.get("floor") or {},
    )


def read_spec(value: dict[str, Any]) -> Reading[StudySpec]:
    """Parse a journal's spec. Required keys, missing or refused, are empty; study and base are kept as written."""
    needed = {"study": "s", "base": "b", "space": {"seed": {"choice": [1]}}, "budget": {"trials": 1}}
    reading = _read(StudySpec, value, needed)
    # study and base are shown as text, so that any string will do
    names = {key: value[key] if isinstance(value.get(key), str) else "?" for key in ("study", "base")}
    empty = {"space": dict[str, Any](), "budget": Budget.model_construct()}
    lacking = {key: item for key, item in empty.items() if key not in value or key in reading.refused}
    return Reading(reading.model.model_copy(update={**names, **lacking}), reading.unknown, reading.refused)


def _read(model: type[Model], value: dict[str, Any], needed: dict[str, Any]) -> Reading[Model]:
    """Parse a record leniently. needed: substitutes for keys without a default."""
    value = {**needed, **copy.deepcopy(value)}
    unknown, refused = list[str](), list[str]()
    for _ in range(_TRIES):
        try:
            return Reading(model.model_validate(value), tuple(unknown), tuple(refused))
        except ValidationError as error:
            problems = error.errors(include_url=False, include_context=False, include_input=False)
        for problem in problems:
            place = _place(problem["loc"], value)
            if problem["type"] == "extra_forbidden" and place:
                unknown.append(".".join(place))
                _remove(value, place)
            elif place:
                place = place[: 2 if place[0] == "space" else 1]
                refused.append(".".join(place))
                _remove(value, place)
                if place[0] in needed and not value.get(place[0]):
                    refused += [place[0]] * (place[0] not in refused)
                    value[place[0]] = copy.deepcopy(needed[place[0]])
            else:  # a check across keys: its message begins with one of them
                word = problem["msg"].removeprefix("Value error, ").split()[0].rstrip(":(")
                optional = [key for key in value if key not in needed]
                key = word if word in optional else optional[-1]
                refused.append(key)
                _remove(value, (key,))
    raise AssertionError(f"{model.__name__} refuses its own defaults")


def _place(loc: tuple[str | int, ...], value: Any) -> tuple[str, ...]:
    """The keys that lead to the location of a pydantic error, as far as they are keys of mappings."""
    place = list[str]()
    for part in loc:
        if isinstance(value, dict) and part in value:
            place.append(str(part))
            value = value[part]
    return tuple(place)


def _remove(value: dict[str, Any], place: tuple[str, ...]) -> None:
    for key in place[:-1]:
        value = value.get(key) or {}
    value.pop(place[-1], None)
