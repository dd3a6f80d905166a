"""The required keys and types of each kind of journal record (search.study.journal), checked when a journal is read.

A record that does not match comes from a damaged or hand-edited file and is reported with its line; code that reads a
study need not check types again. Unknown keys are allowed, since later releases may add some.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config
from typing_extensions import TypedDict

from search.spec.objective import OBJECTIVES, ObjectiveName
from search.study.journal import Record
from trainer.complaints import complaint, dotted, kind_of, short
from trainer.keys import RuleError

Count = Annotated[int, Field(ge=0, le=10**18)]
Seconds = Annotated[float, Field(ge=0, le=1e12)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Metric = float | Literal["nan", "inf", "-inf"]
Point = dict[str, Any]
Status = Literal[
    "running", "completed", "early_stopped", "pruned", "diverged", "failed", "out_of_memory", "paused", "interrupted"
]


def _positive(metrics: dict[str, Metric]) -> dict[str, Metric]:
    """Check that the value of an objective with a logarithmic scale is positive. Raises ValueError."""
    for name in (objective.name for objective in OBJECTIVES.values() if objective.log):
        value = metrics.get(name, 1.0)
        if not isinstance(value, str) and value <= 0:
            raise ValueError(f"{name} is {value:g}; it is positive")
    return metrics


Metrics = Annotated[dict[str, Metric], AfterValidator(_positive)]
# of a config only the keys that the leaderboard reads; a driver validates the rest when it trains it
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
    source_sha256: NotRequired[str]  # of the source, where the corpus is the user's own code


@_open
class _Spec(TypedDict):
    study: NotRequired[str]
    objective: NotRequired[ObjectiveName]
    space: NotRequired[dict[str, dict[str, Any]]]


@_open
class _Precision(TypedDict):
    dtype: Literal["float32", "bfloat16"]
    speedup: NotRequired[Number | None]
    machine: NotRequired[str]


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
    directory: NotRequired[str | None]
    precision: NotRequired[_Precision | None]
    commit: NotRequired[str | None]
    dirty: NotRequired[bool | None]
    packages: NotRequired[dict[str, Any] | None]
    host: NotRequired[dict[str, Any] | None]
    workers: NotRequired[dict[str, Annotated[float, Field(ge=0)]] | None]


@_open
class _EarlierTrial(TypedDict):
    study: str
    trial: Count
    point: Point
    status: str
    tokens: Count
    scores: dict[Annotated[str, Field(pattern=r"^[0-9]{1,18}$")], Metric]
    objective: Number | None
    config: NotRequired[dict[str, Any]]


class _Prior(_Any):
    trials: list[_EarlierTrial]


class _Point(_Any):
    trial: Count
    point: Point
    config: _Config
    name: NotRequired[str]
    bracket: NotRequired[Count]
    exempt: NotRequired[bool]
    group: NotRequired[str]
    cohort: NotRequired[Count]
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


KINDS = {
    "study": _Study, "prior": _Prior, "point": _Point, "status": _Status,
    "report": _Report, "decision": _Decision, "test": _Test,
}  # fmt: skip


@cache
def _adapter(kind: str) -> TypeAdapter[Any]:
    return TypeAdapter(KINDS[kind])


def check(record: Record) -> None:
    """Check a record's keys and types; of a kind that a later release added, nothing.

    Raises RuleError with the key that is missing or wrong.
    """
    kind = record["record"]
    if kind not in KINDS:
        if near := difflib.get_close_matches(kind, KINDS, n=1, cutoff=0.8):  # a slip, not another kind
            raise RuleError("record", f"there is no {kind} record; did you mean {near[0]}?", "unknown")
        return
    try:
        _adapter(kind).validate_python(record)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = dotted(first["loc"][:2])
        if first["type"] == "missing":
            raise RuleError(key, f"a {kind} record without {key}", "missing") from None
        problem = complaint(first) + (f", got {short(first['input'])}" if first["type"] == "value_error" else "")
        raise RuleError(key, f"a {kind} record: {key}: {problem}", kind_of(first)) from None
