"""Warnings on a search spec that is valid but doubtful, printed before the search runs."""

from __future__ import annotations

from search.spec.points import fields
from search.spec.study_spec import StudySpec
from search.strategy.distinct import Distinct
from search.strategy.groups import values
from trainer.config import TrainConfig

_DECAYS = ("cosine", "linear")  # schedules that decay over the whole trial


def advice(spec: StudySpec, base: TrainConfig, length: int) -> list[str]:
    """The warnings, one line each, without a full stop. length: tokens of a full-length trial."""
    lines = []
    compared, trials = values(spec), spec.budget.trials
    if trials is not None and trials < len(compared):
        lines.append(
            f"budget.trials: {trials}, but {spec.compare} has {len(compared)} values to compare: "
            f"{len(compared) - trials} of them get no trial"
        )
    lines += _few_points(spec, base)
    if spec.scheduler is None:
        return lines
    settings = spec.scheduler.settings
    at_once = None if spec.resources is None else spec.resources.at_once
    if settings.cohort_size is not None and spec.sampler in ("tpe", "gp") and at_once != 1:
        lines.append(
            f"scheduler.{spec.scheduler.name}.mode: its decisions depend on no order of arrival, but sampler: "
            f"{spec.sampler} proposes from what has ended by then; for equal winners in equal runs use sampler: random "
            "or grid, or resources: {at_once: 1}"
        )
    searched = {field for name, parameter in spec.space.items() for field in fields(name, parameter)}
    if settings.compares and base.schedule in _DECAYS and "schedule" not in searched:
        lines.append(
            f"schedule: {base.schedule} decays over the whole trial, so values at rungs say little about the end; "
            "wsd compares trials at the same rate (set: {schedule: wsd})"
        )
    each = None if trials is None else -(-trials // max(1, len(compared)))
    remarks = settings.advice(spec.rungs(length), each)
    return [*lines, *(f"scheduler.{spec.scheduler.name}.{key}: {text}" for key, text in remarks)]


def _few_points(spec: StudySpec, base: TrainConfig) -> list[str]:
    """That the space is used up before the budget; a grid is meant to be."""
    if spec.sampler == "grid":
        return []
    trials = spec.budget.trials
    n_points = Distinct(spec, base).count() if trials is None else Distinct(spec, base).count(trials - 1)
    if n_points is None:
        return []
    budget = "budget" if trials is None else f"budget.trials: {trials}"
    return [f"{budget}, but the space has {n_points} distinct configurations: the search ends once each has run"]
