"""The leaderboard as rows: one dict per trial, best first. Pure. `search.leaderboard` turns them into data frames."""

from __future__ import annotations

import math
from typing import Any

from search.spec.objective import Objective
from search.study.journal import FULL
from search.study.scores import BROKEN, objective, objective_of
from search.study.study import Study, Trial

Row = dict[str, Any]
MAINRUN = ("val_nats_per_char", "mainrun_nats_per_char", "mainrun_coverage")


def parameters(point: dict[str, Any]) -> dict[str, Any]:
    """A point as columns of a row, each `params_NAME`; a linked parameter has one for each of its config keys.

    >>> parameters({"learning_rate": 3e-4, "width": {"n_embd": 384, "n_head": 6}})
    {'params_learning_rate': 0.0003, 'params_width.n_embd': 384, 'params_width.n_head': 6}
    """
    columns: dict[str, Any] = {}
    for name, value in point.items():
        parts = {f"{name}.{key}": item for key, item in value.items()} if isinstance(value, dict) else {name: value}
        columns |= {parameter_column(part): item for part, item in parts.items()}
    return columns


def parameter_column(name: str) -> str:
    """The column of a parameter, in a namespace of its own: users may call a parameter `status` or `trial`. The prefix
    is that of Optuna's `trials_dataframe`."""
    return f"params_{name}"


def rows(study: Study) -> list[Row]:
    """A row per trial, best first.

    objective, val_loss, val_perplexity, val_bits_per_byte, val_accuracy: on the full validation split at the end
    of a full-length trial, else None, so that sorting a column never mixes budgets. best_report: the best
    objective during training, on the validation subset that reports score. last: the objective at the last report,
    at whatever length. With `split: mainrun` also the keys MAINRUN (see trainer.mainrun), at the end as well. The
    searched parameters have the columns of `parameters`.
    """
    return [_row(study, trial) for trial in order(study)]


def order(study: Study) -> list[Trial]:
    """Searched trials, best first: those of full length by objective; then stopped, running and interrupted ones, the
    longest first; then waiting ones; last the broken ones."""
    return sorted(study.searched, key=lambda trial: _sort_key(study, trial))


def _sort_key(study: Study, trial: Trial) -> tuple[float, ...]:
    value = objective(study, trial)
    if value is not None:
        return (0, 0, objective_of(study).rank(value), trial.number)
    group = 3 if trial.status in (*BROKEN, *FULL) else (1 if trial.reports else 2)
    last = objective_of(study).rank(_value(study, trial.reports[-1])) if trial.reports else math.inf
    return (group, -_reached(trial), last if math.isfinite(last) else math.inf, trial.number)


def _reached(trial: Trial) -> int:
    """The length by which an unfinished trial is ranked: its last rung, or its tokens before the first rung.

    The rung is nominal: true tokens at a rung differ with the batch size.
    """
    return max((report["rung"] or 0 for report in trial.reports), default=0) or trial.tokens


def _value(study: Study, report: dict[str, Any]) -> float:
    """The objective in a report; NaN where the report lacks it."""
    return float(report["metrics"].get(objective_of(study).name, math.nan))


def best_on_subset(study: Study, trial: Trial) -> float | None:
    """The best finite objective on the validation subset during training; None without one.

    The final report counts where it holds the subset's value as well as the full split's.
    """
    target = objective_of(study)
    values = [_value(study, report) for report in trial.reports if not report["final"]]
    values += [_subset_value_at_end(target, report["metrics"]) for report in trial.reports if report["final"]]
    return min((value for value in values if math.isfinite(value)), key=target.rank, default=None)


def _subset_value_at_end(target: Objective, metrics: dict[str, float]) -> float:
    """The objective on the validation subset at the end of training.

    A final report holds the metric of the curve on the subset; NaN where the objective cannot be computed from it.
    """
    subset = metrics.get(f"{target.curve}_subset", math.nan)
    if not target.curve_is_compared or not math.isfinite(subset):
        return math.nan
    return target.value(min(subset, 700)) if target.log else target.value(subset)


def _row(study: Study, trial: Trial) -> Row:
    value = objective(study, trial)
    final = trial.final["metrics"] if trial.final is not None and value is not None else {}
    last = trial.reports[-1]["metrics"] if trial.reports else {}
    memory = [m for r in trial.reports if (m := r["metrics"].get("peak_memory_mb")) is not None]
    return {
        "trial": trial.number,
        "name": trial.name,
        "status": trial.status,
        "rung": trial.rung,
        "objective": value,
        **{key: final.get(key) for key in ("val_loss", "val_perplexity", "val_bits_per_byte", "val_accuracy")},
        **{key: final[key] for key in MAINRUN if key in final},
        "best_report": best_on_subset(study, trial),
        "last": last.get(objective_of(study).name),
        "train_loss": last.get("train_loss"),
        "tokens": trial.tokens,
        "seconds": trial.seconds or last.get("seconds"),
        "n_parameters": trial.n_parameters,
        "peak_memory_mb": max(memory, default=None),
        "cause": trial.cause,
        **parameters(trial.point),
    }
