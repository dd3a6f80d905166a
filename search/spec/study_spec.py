"""The search spec, the YAML file that defines a study. Frozen data, validated before anything starts; no torch, no Ray.

Example: search/specs/quickstart.yaml. `nanosweep schema` prints the JSON Schema generated from these classes; the
docstrings of the fields are its descriptions.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from data.errors import UserError
from data.paths import absolute
from search.spec.objective import DEFAULT, ObjectiveName
from search.spec.parameter import Parameter, Strict
from search.spec.trackers import DEFAULT as DEFAULT_TRACKER
from search.spec.trackers import TRACKERS, check_name
from search.stopping.registry import Scheduler, expected
from search.stopping.rule import Settings
from trainer.config import Whole
from trainer.hints import hint
from trainer.keys import RuleError
from trainer.lengths import Tokens

Sampler = Literal["grid", "random", "tpe", "gp"]


class Budget(Strict):
    """The budget of a search: at least one limit; the first that is reached ends the search.

    It counts all sessions of a resumed study and may be raised later. Once it is used up no new trial starts; running
    trials train to their end.
    """

    trials: Whole | None = None
    """number of trials"""
    tokens: Tokens | None = None
    """training tokens, summed over all trials"""
    hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """wall-clock hours in which a driver ran"""

    @model_validator(mode="after")
    def _some(self) -> Budget:
        if self.trials is None and self.tokens is None and self.hours is None:
            raise RuleError(("trials", "tokens", "hours"), "give at least one of trials, tokens, hours", "missing")
        return self


class Finalists(Strict):
    """Repeat the best trials with fresh seeds, which all of them share: a trial may lead because its seed was lucky.

    A round trains every remaining finalist with one more seed; finalists that are clearly behind are dropped from the
    next round. The runs start after the search and do not count in its budget: at most top x seeds of them. With
    `compare` the best `top` of each value are repeated, finalists race only against those of the same value, and the
    leader of each value runs every round: at most values x top x seeds runs.
    """

    top: Annotated[int, Field(ge=1)] = 4
    """number of finalists; at least 2, or with `compare` at least 1 for each value"""
    seeds: Annotated[int, Field(ge=2)] = 3
    """most fresh seeds for each finalist, which is the number of rounds"""


class Resources(Strict):
    """The resources of one trial, as Ray schedules them, and the limit of concurrent trials."""

    cpus: Annotated[float, Field(ge=0.01, allow_inf_nan=False)] = 1
    """CPU cores of one trial; a fraction is allowed"""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of one trial, at most 1; 0.25 lets four trials share a GPU"""
    at_once: Whole | None = None
    """most trials that run concurrently, to leave a part of the cluster free; default: as many as fit"""

    @model_validator(mode="after")
    def _whole_gpus(self) -> Resources:
        if 0 < self.gpus < 0.01:
            raise RuleError("gpus", f"gpus: {self.gpus:g} per trial: a hundredth is the least; or 0", "too_small")
        if self.gpus > 1:
            raise RuleError(
                "gpus",
                f"gpus: {self.gpus:g} per trial: a trial trains in one process on one GPU; use at most 1 "
                "(several GPUs serve several trials at once; a full run uses them all: torchrun -m trainer)",
                "too_large",
            )
        return self


def _study_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", name) or name.endswith("."):
        raise RuleError(
            "study",
            f"{name!r} must be a safe folder name: letters, digits, `.`, `_`, `-`, at most 63, "
            "beginning with a letter or digit",
            "unsafe",
        )
    return name


def _scheduler(value: Any) -> Any:
    if value is not None and value != "none" and not isinstance(value, dict):
        raise RuleError("scheduler", expected(value), "form")
    return None if value == "none" else value


def _resources(value: Any) -> Any:
    if value is not None and value != "auto" and not isinstance(value, dict):
        raise RuleError("resources", f"expected auto or {{cpus: 2, gpus: 0.25}}, got {value!r}", "form")
    return None if value == "auto" else value


def _storage(value: str) -> str:
    if "://" in value:
        message = f"{value!r}: the journal is appended to, so it needs a folder; mount the bucket on every node"
        raise RuleError("storage", message, "no_folder")
    if not value.strip():
        raise RuleError("storage", "an empty path; give a folder, like ./runs", "empty")
    try:
        absolute(value)
    except UserError as error:
        raise RuleError("storage", str(error), error.kind) from None
    return value


SchedulerOrNone = Annotated[
    Scheduler | None, BeforeValidator(_scheduler, json_schema_input_type=Scheduler | Literal["none"])
]
ResourcesOrAuto = Annotated[
    Resources | None, BeforeValidator(_resources, json_schema_input_type=Resources | Literal["auto"])
]


class Scale(Strict):
    """The same search at another size. Its keys replace those of the spec; `set` and `space` are merged key by key."""

    base: str | None = None
    set: dict[str, Any] | None = None
    space: dict[str, Parameter] | None = None
    start: list[dict[str, Any]] | None = None
    scheduler: SchedulerOrNone = None
    budget: Budget | None = None
    finalists: Finalists | None = None
    resources: ResourcesOrAuto = None


class StudySpec(Strict):
    """The spec of one study."""

    study: Annotated[str, AfterValidator(_study_name)] = Field(examples=["my-search"])
    """name of the study: its folder in the storage and its parent run in MLflow"""
    base: str = Field(examples=["trainer/configs/stories.yaml"])
    """the base config: a YAML file for `python -m trainer`; the path is tried relative to the working directory, then
    to the spec's folder, then to the repository"""
    set: dict[str, Any] = Field(default_factory=dict, examples=[{"max_tokens": "2M"}])
    """config keys that replace those of the base config, the same in every trial"""
    space: dict[str, Parameter] = Field(min_length=1, examples=[{"learning_rate": {"log": [1e-4, 1e-2]}}])
    """the search space: parameters by name"""
    start: list[dict[str, Any]] = Field(default_factory=list, examples=[[{"learning_rate": 1e-3}]])
    """points that are evaluated first, usually known-good ones; the sampler proposes the parameters that a point leaves
    out"""
    warm_start: str | None = None
    """an earlier study on the same parameters and data, by its name in the storage or its folder: the sampler learns
    from its trials too, from the first proposal on"""
    compare: str | None = None
    """a choice parameter whose values are compared, each at its own best: `compare: loss`. Trials are divided equally
    among the values, and each value is a search of its own: the sampler learns only from its trials, and at rungs and
    as finalists trials are compared only with trials of the same value. Without `compare` the study looks for the best
    trial, and the sampler soon abandons a value that begins badly"""
    sampler: Sampler = "tpe"
    """what proposes the points: grid (every combination of choices), random, or Optuna's tpe or gp"""
    scheduler: SchedulerOrNone = None
    """the stopping rule, which ends poor trials early: {asha: {first_rung: 1M, factor: 4}}, {median: {first_rung: 1M}},
    or none"""
    budget: Budget = Field(examples=[{"trials": 64}])
    """when the search ends: {trials: 64, tokens: 2B, hours: 12}, at least one of them"""
    finalists: Finalists | None = Field(default=None, examples=[{"top": 4, "seeds": 3}])
    """{top: 4, seeds: 3}: repeat the best 4 trials with up to 3 fresh seeds; with `compare` the best 4 of each value"""
    objective: ObjectiveName = DEFAULT
    """the metric that trials are ranked by, measured at the end of a trial on the full validation split"""
    resources: ResourcesOrAuto = None
    """{cpus: 2, gpus: 0.25, at_once: 4}: cores and GPUs of each trial, and the most trials that run concurrently; or
    auto: chosen from what the machine has"""
    max_failures: Annotated[int, Field(ge=0)] = 2
    """how often a trial whose worker process or node was lost is restarted from its last checkpoint; a trial that
    fails by itself (an error, divergence, out of memory) is not restarted"""
    report_timeout_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60
    """a trial that reports nothing for this long counts as hanging and is ended as failed. By default a trial reports
    ten times"""
    storage: Annotated[str, AfterValidator(_storage)] = "./runs"
    """folder that holds the studies; on a cluster a path that all nodes share"""
    tracking: Annotated[str, AfterValidator(check_name)] = Field(
        default=DEFAULT_TRACKER, json_schema_extra={"enum": [*TRACKERS]}
    )
    """the experiment tracker that follows the study's journal: mlflow; or none, then MLflow is neither imported nor
    contacted"""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 1337
    """seed of the sampler and the stopping rule; every trial of the search trains with the base config's seed"""
    scales: dict[str, Scale] = Field(default_factory=dict, examples=[{"tiny": {"budget": {"trials": 4}}}])
    """the same search at other sizes, by name; chosen with `--scale tiny`"""

    @model_validator(mode="after")
    def _comparable(self) -> StudySpec:
        if self.compare is None:
            if self.finalists is not None and self.finalists.top < 2:
                message = "finalists: top: 1 has nobody to race with; use at least 2, or compare: PARAMETER"
                raise RuleError(("finalists", "compare"), message, "single")
            return self
        parameter = self.space.get(self.compare)
        if parameter is None:
            choices = [name for name, item in self.space.items() if item.choice is not None and item.when is None]
            problem, kind = f"is no parameter of the space; {hint(self.compare, choices)}", "unknown"
        elif parameter.choice is None:
            problem, kind = "is a range; its values cannot take turns: use a choice", "no_choice"
        elif len(parameter.choice) < 2:
            problem, kind = "has one value; there is nothing to compare it with", "single"
        elif parameter.when is not None:
            problem, kind = "does not exist everywhere (when); compare one that does", "conditional"
        else:
            return self
        raise RuleError("compare", f"compare: {self.compare} {problem}", kind)

    @property
    def folder(self) -> Path:
        return absolute(self.storage) / self.study

    @property
    def stopping(self) -> Settings | None:
        """The settings of the stopping rule; None where the spec has none and every trial trains to its end."""
        return None if self.scheduler is None else self.scheduler.settings

    def rungs(self, max_tokens: int, bracket: int = 0) -> list[int]:
        """Nominal token counts of the rungs of a trial of max_tokens, ascending; the end of the trial is not a rung."""
        return [] if self.stopping is None else self.stopping.rungs(max_tokens, bracket)


# keys of the spec that may change when a study is resumed
MAY_CHANGE = ("budget", "finalists", "resources", "storage", "tracking", "max_failures", "report_timeout_minutes")
