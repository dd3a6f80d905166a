"""What each kind of journal record must hold, as `search.study.journal` has it: checked when a journal is read.

A record of another shape is a file that was spoilt, or written by hand: it is named with its line, and nobody who
reads a study has to look at types again. Keys that are not known here are let through, for later releases.
"""

from __future__ import annotations

from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from search.spec.objective import OBJECTIVES, ObjectiveName
from search.study.journal import Record
from trainer.yaml_file import dotted, short

Count = Annotated[int, Field(ge=0, le=10**18)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Metric = float | Literal["nan", "inf", "-inf"]
Point = dict[str, Any]
Status = Literal[
    "running", "completed", "early_stopped", "pruned", "diverged", "failed", "out_of_memory", "paused", "interrupted"
]


def _positive(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """Where an objective is compared by its logarithm, its values have one."""
    for name in (objective.name for objective in OBJECTIVES.values() if objective.log):
        value = metrics.get(name, 1.0)
        if not isinstance(value, str) and value <= 0:
            raise ValueError(f"{name} is {value:g}; it is positive")
    return metrics


Metrics = Annotated[dict[str, Metric], AfterValidator(_positive)]
# of a config only what a leaderboard computes with: whether the rest is one of this release is for who trains it
_open = with_config(ConfigDict(strict=True, extra="allow"))


@_open
class _Config(TypedDict):
    tokenizer: NotRequired[str]
    loss: NotRequired[str]
    schedule: NotRequired[str]
    learning_rate: NotRequired[Annotated[float, Field(gt=0, allow_inf_nan=False)]]
    max_tokens: NotRequired[Count | str]
    batch_size: NotRequired[Annotated[int, Field(ge=1, le=10**18)]]
    gradient_accumulation_steps: NotRequired[Annotated[int, Field(ge=1, le=10**18)]]
    block_size: NotRequired[Annotated[int, Field(ge=1, le=10**18)]]
    warmup_frac: NotRequired[Annotated[float, Field(ge=0, le=1)]]
    decay_frac: NotRequired[Annotated[float, Field(ge=0, le=1)]]


@_open
class _Floor(TypedDict):
    val_perplexity: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    val_bits_per_byte: Annotated[float, Field(gt=0, allow_inf_nan=False)]


@_open
class _Tokenized(TypedDict):
    hash: NotRequired[str]
    classes: NotRequired[Count]
    floor: NotRequired[_Floor | None]
    train_tokens: NotRequired[Count]
    val_tokens: NotRequired[Count]


@_open
class _Data(TypedDict):
    corpus: NotRequired[str]
    tokenizer: NotRequired[str]
    hash: NotRequired[str]
    floor: NotRequired[_Floor | None]
    tokenizers: NotRequired[dict[str, _Tokenized] | None]
    source_sha256: NotRequired[str]  # of a corpus that is the user's own code


@_open
class _Spec(TypedDict):
    study: NotRequired[str]
    objective: NotRequired[ObjectiveName]
    space: NotRequired[dict[str, dict[str, Any]]]


@_open
class _Any(TypedDict):
    record: str
    time: Seconds


class _Study(_Any):
    version: NotRequired[Annotated[int, Field(ge=1)]]
    spec: _Spec
    base: NotRequired[dict[str, Any]]
    data: NotRequired[_Data | None]
    rungs: NotRequired[list[Count] | None]
    own_code: NotRequired[dict[str, str] | None]
    commit: NotRequired[str | None]
    dirty: NotRequired[bool | None]
    packages: NotRequired[dict[str, Any] | None]
    host: NotRequired[dict[str, Any] | None]
    workers: NotRequired[dict[str, Annotated[float, Field(ge=0)]] | None]


@_open
class _Taken(TypedDict):
    study: str
    trial: Count
    point: Point
    status: str
    tokens: Count
    scores: dict[Annotated[str, Field(pattern=r"^[0-9]{1,18}$")], Metric]
    objective: Number | None


class _Prior(_Any):
    trials: list[_Taken]


class _Point(_Any):
    trial: Count
    point: Point
    config: _Config
    name: NotRequired[str]
    bracket: NotRequired[Count]
    exempt: NotRequired[bool]
    group: NotRequired[str]
    of: NotRequired[Count | None]
    round: NotRequired[Count | None]


class _Status(_Any):
    trial: Count
    status: Status
    cause: NotRequired[str | None]
    rung: NotRequired[Count | None]
    seconds: NotRequired[Seconds | None]
    tokens: NotRequired[Count]
    n_parameters: NotRequired[Count | None]
    micro_batch: NotRequired[Count | None]


class _Report(_Any):
    trial: Count
    step: Count
    tokens: Count
    rung: Count | None
    final: bool
    metrics: Metrics
    checkpoint: NotRequired[str | None]
    seconds: NotRequired[Seconds | None]
    micro_batch: NotRequired[Count | None]


class _Decision(_Any):
    trial: Count
    rung: Count
    action: Literal["continue", "stop", "pause", "promote"]
    value: Number
    cutoff: Number | None
    of: Count


class _Test(_Any):
    trial: Count
    metrics: Metrics


class _Other(_Any):
    """Of a later release."""

    trial: Count


_KINDS = {
    "study": _Study, "prior": _Prior, "point": _Point, "status": _Status,
    "report": _Report, "decision": _Decision, "test": _Test,
}  # fmt: skip


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(_KINDS.get(kind, _Other))


def check(record: Record) -> None:
    """Raises ValueError, saying which key of the record is missing, or what is wrong with it."""
    kind = record["record"]
    try:
        _adapter(kind).validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["type"] == "missing":
            raise ValueError(f"a {kind} record without {dotted(first['loc'][:2])}") from None
        about = first["msg"].removeprefix("Value error, ")
        about = f"{about[0].lower()}{about[1:]}, got {short(first['input'])}"
        raise ValueError(f"a {kind} record: {dotted(first['loc'][:2])}: {about}") from None
