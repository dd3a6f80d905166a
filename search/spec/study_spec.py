"""The search spec: what a researcher writes. Pure data, checked whole before anything starts; no torch, no Ray.

Example: search/specs/quickstart.yaml. `nanosweep schema` prints the JSON Schema made from these classes.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from data.errors import UserError, nearest
from data.paths import at_home
from search.spec.objective import DEFAULT, ObjectiveName
from search.spec.trackers import DEFAULT as DEFAULT_TRACKER
from search.spec.trackers import TRACKERS, check_name
from search.stopping.registry import Scheduler, expected
from search.stopping.rule import Settings
from trainer.config import Whole
from trainer.keys import RuleError
from trainer.lengths import Tokens, parse_tokens

Sampler = Literal["grid", "random", "tpe", "gp"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)


def _end(value: Any) -> Any:
    """`2M` -> 2_000_000; anything else as it is."""
    if not isinstance(value, str):
        return value
    try:
        return parse_tokens(value)
    except ValueError:
        raise ValueError(f"expected a number, got {value!r}") from None


End = Annotated[int | float, BeforeValidator(_end, json_schema_input_type=int | float | str)]


class Parameter(_Strict):
    """One searched parameter: exactly one of log, uniform, choice; with `when`, only where that holds."""

    log: list[End] | None = Field(default=None, min_length=2, max_length=2)
    """[low, high], both ends included, uniform in the logarithm; whole numbers for an integer parameter"""
    uniform: list[End] | None = Field(default=None, min_length=2, max_length=2)
    """[low, high], both ends included"""
    choice: list[Any] | None = Field(default=None, min_length=1)
    """values; or mappings of several parameters that go together: {n_embd: 384, n_head: 6}"""
    field: str | None = None
    """the config's key that it sets; default: its own name. So that each loss may have a learning rate of its own:
    {field: learning_rate, log: [1e-3, 1e-1], when: {loss: mse}}"""
    when: dict[str, Any] | None = Field(default=None, min_length=1)
    """{parameter: value or [values]}: the parameter exists only where all of these hold"""

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            raise ValueError(
                f"expected {{log: [low, high]}}, {{uniform: [low, high]}} or {{choice: [...]}}, got {value!r}"
            )
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Parameter:
        kinds = [kind for kind in ("log", "uniform", "choice") if getattr(self, kind) is not None]
        if len(kinds) != 1:
            raise ValueError(f"give exactly one of log, uniform, choice; got {' and '.join(kinds) or 'none'}")
        if self.choice is not None:
            if len({repr(value) for value in self.choice}) < len(self.choice):
                raise ValueError(f"choice names a value twice: {self.choice}")
            if len({isinstance(value, dict) for value in self.choice}) > 1:
                raise ValueError("choice mixes mappings and plain values; use one kind")
            if self.linked and self.field is not None:
                raise ValueError("field names one key, but the choice's mappings set several; remove it")
            return self
        low, high = self.log or self.uniform or []
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{kinds[0]}: [{low}, {high}] has no end; use finite numbers")
        if not low < high:
            raise ValueError(f"{kinds[0]}: [{low}, {high}] is an empty range; the first end must be the smaller")
        if self.log is not None and low <= 0:
            raise ValueError(f"log: [{low}, {high}] touches zero; use a positive lower end, or uniform")
        return self

    @property
    def linked(self) -> bool:
        """Whether each value sets several parameters at once."""
        return self.choice is not None and isinstance(self.choice[0], dict)


class Budget(_Strict):
    """Whichever comes first; counted over resumes, and may be raised later. At least one.

    No trial begins once it is spent; those that run go on to their end.
    """

    trials: Whole | None = None
    tokens: Tokens | None = None
    """trained on by all trials together"""
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """of wall time"""

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if self.trials is None and self.tokens is None and self.hours is None:
            raise ValueError("give at least one of trials, tokens, hours")
        return self


class Finalists(_Strict):
    """The best trials once more, with fresh seeds that all of them share: what one seed gave may have been luck.

    A round is one fresh seed for each of them; who is clearly behind is not in the next. They come after the search,
    beyond its budget: at most top x seeds trials. With `compare` they are the best `top` of each value, the race is
    among those of one value, and its leader runs every round: at most values x top x seeds trials.
    """

    top: Annotated[int, Field(ge=1)] = 4
    """how many; at least 2, or with `compare` 1 of each value"""
    seeds: Annotated[int, Field(ge=2)] = 3


class Resources(_Strict):
    """Of one trial."""

    cpus: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0
    at_once: Whole | None = None
    """at most so many trials at a time, which leaves the rest of a cluster to others; default: as many as fit"""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Resources:
        if 0 < self.gpus < 0.01:
            raise ValueError(f"gpus: {self.gpus:g} per trial: a hundredth is the least; or 0")
        if self.gpus > 1:
            raise ValueError(
                f"gpus: {self.gpus:g} per trial: a trial trains in one process on one GPU; use at most 1 "
                "(several GPUs serve several trials at once; a full run uses them all: torchrun -m trainer)"
            )
        return self


def _study_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name) or name.endswith("."):
        raise ValueError(
            f"{name!r} must be a safe folder name: letters, digits, `.`, `_`, `-`, at most 63, "
            "beginning with a letter or digit"
        )
    return name


def _scheduler(value: Any) -> Any:
    if value is not None and value != "none" and not isinstance(value, dict):
        raise ValueError(expected(value))
    return None if value == "none" else value


def _resources(value: Any) -> Any:
    if value is not None and value != "auto" and not isinstance(value, dict):
        raise ValueError(f"expected auto or {{cpus: 2, gpus: 0.25}}, got {value!r}")
    return None if value == "auto" else value


def _storage(value: str) -> str:
    if "://" in value:
        raise ValueError(f"{value!r}: the journal is appended to, so it needs a folder; mount the bucket on every node")
    if not value.strip():
        raise ValueError("an empty path; give a folder, like ./runs")
    try:
        at_home(value)
    except UserError as error:
        raise ValueError(str(error)) from None
    return value


SchedulerOrNone = Annotated[
    Scheduler | None, BeforeValidator(_scheduler, json_schema_input_type=Scheduler | Literal["none"])
]
ResourcesOrAuto = Annotated[
    Resources | None, BeforeValidator(_resources, json_schema_input_type=Resources | Literal["auto"])
]


class Scale(_Strict):
    """The same search at another size: what it names replaces what the spec says; set and space key by key."""

    base: str | None = None
    set: dict[str, Any] | None = None
    space: dict[str, Parameter] | None = None
    start: list[dict[str, Any]] | None = None
    scheduler: SchedulerOrNone = None
    budget: Budget | None = None
    finalists: Finalists | None = None
    resources: ResourcesOrAuto = None


class StudySpec(_Strict):
    """One search."""

    study: Annotated[str, AfterValidator(_study_name)]
    """its name: the folder in the storage and the parent run in MLflow"""
    base: str
    """a complete config (YAML), looked for from the working directory, then beside the spec"""
    set: dict[str, Any] = Field(default_factory=dict)
    """values that replace the base's, the same for every trial"""
    space: dict[str, Parameter] = Field(min_length=1)
    """what is searched"""
    start: list[dict[str, Any]] = Field(default_factory=list)
    """known-good points, which are tried first; parameters that one leaves out are proposed by the sampler"""
    warm_start: str | None = None
    """an earlier study (its name in the storage, or its folder) on the same space and data: the sampler knows its
    trials from the beginning"""
    compare: str | None = None
    """a parameter with a choice, of which each value is to be shown at its best: `compare: loss`. They take turns, so
    that each gets as many trials; the sampler learns about each from its own trials; at rungs, and as finalists, trials
    meet their own kind alone. Without it the best trial is sought, and a value that begins badly is soon left"""
    sampler: Sampler = "tpe"
    scheduler: SchedulerOrNone = None
    """which trials end early: {asha: {first_rung: 1M, factor: 4}}, {median: {first_rung: 1M}}, or none"""
    budget: Budget
    finalists: Finalists | None = None
    """{top: 4, seeds: 3}: the best 4 again, with up to 3 fresh seeds; with `compare` the best 4 of each value"""
    objective: ObjectiveName = DEFAULT
    """at the end of a trial, on the full validation split"""
    resources: ResourcesOrAuto = None
    """{cpus: 2, gpus: 0.25} for each trial, at_once: 4 of them at most; or auto: what the machine has"""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """how often a trial whose worker was lost begins again from its last checkpoint; what fails by itself does not"""
    report_timeout_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60
    """a trial that reports nothing for so long hangs: it is ended as failed. By default a trial reports ten times"""
    storage: Annotated[str, AfterValidator(_storage)] = "./runs"
    """where studies live; a shared path on a cluster"""
    tracking: Annotated[str, AfterValidator(check_name)] = Field(
        default=DEFAULT_TRACKER, json_schema_extra={"enum": [*TRACKERS]}
    )
    """what shows the records beside the study's journal: mlflow; or none, and no MLflow is imported or contacted"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1337
    """of the sampler and the scheduler; each trial trains with the base's seed"""
    scales: dict[str, Scale] = Field(default_factory=dict)
    """by name, the same search at another size: `--scale tiny`"""

    @model_validator(mode="after")
    def _comparable(self) -> StudySpec:
        if self.compare is None:
            if self.finalists is not None and self.finalists.top < 2:
                raise RuleError(
                    "finalists", "finalists: top: 1 has nobody to race with; use at least 2, or compare: PARAMETER"
                )
            return self
        parameter = self.space.get(self.compare)
        if parameter is None:
            choices = [name for name, one in self.space.items() if one.choice is not None and one.when is None]
            problem = f"is no parameter of the space; {nearest(self.compare, choices)}"
        elif parameter.choice is None:
            problem = "is a range; its values cannot take turns: use a choice"
        elif len(parameter.choice) < 2:
            problem = "has one value; there is nothing to compare it with"
        elif parameter.when is not None:
            problem = "does not exist everywhere (when); compare one that does"
        else:
            return self
        raise RuleError("compare", f"compare: {self.compare} {problem}")

    @property
    def folder(self) -> Path:
        return at_home(self.storage).resolve() / self.study

    @property
    def stopping(self) -> Settings | None:
        """The settings of its stopping rule, whichever that is; None where every trial runs to its end."""
        return None if self.scheduler is None else self.scheduler.settings

    def rungs(self, max_tokens: int, bracket: int = 0) -> list[int]:
        """Nominal token counts at which a trial of max_tokens is compared, the end itself not among them."""
        return [] if self.stopping is None else self.stopping.rungs(max_tokens, bracket)


# keys that may change when a study goes on
MAY_CHANGE = ("budget", "finalists", "resources", "storage", "tracking", "max_failures", "report_timeout_minutes")
