"""The leaderboard by the values of one key (`--by loss`): the best trial of each value, compared with each other."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from typing import Any

from data.errors import UserError, nearest
from search.results import finalize
from search.results.attempt import NotComputed, attempt
from search.results.leaderboard import Row, parameter_column
from search.results.standing import rows as standing_rows
from search.spec.objective import Objective
from search.stats.statistics import Standing
from search.strategy.groups import label
from search.study.scores import distinct, leader, objective, objective_of
from search.study.study import Study, Trial

_LOSS_UNIT = "nats per token"
# metrics of the last report: in nats per token through the read-out, and in the loss's own unit
_LOSSES = ("train_loss", "val_loss", "train_objective_loss", "val_objective_loss")
_TEST = ("test_loss", "test_objective_loss")
_STANDING = (
    *("group", "seeds", "value", "seed_low", "seed_high", "text_low", "text_high"),
    *("difference", "difference_low", "difference_high"),
)


def grouped(study: Study, by: str) -> dict[str, list[Trial]]:
    """The searched trials, grouped by the value of a config key or of a linked parameter of the space.

    Raises UserError for a key that the trials do not have.
    """
    groups: dict[str, list[Trial]] = {}
    written = study.header.spec_as_written.get("space", {}).get(by)
    renamed = isinstance(written, dict) and written.get("field") not in (None, by)  # it has a key's name, not its value
    for trial in study.searched:
        if by in trial.config and not (renamed and by in trial.point):
            value = trial.config[by]
        elif by in trial.point:
            value = trial.point[by]
        else:
            searched = sorted({key for other in study.searched for key in _keys(other.point)})
            raise UserError(f"--by {by}: not a key of the config; {nearest(by, searched or trial.config)}")
        groups.setdefault(label(value), []).append(trial)
    return groups


def _keys(point: dict[str, Any]) -> Iterator[str]:
    """The names of a point's parameters and the config keys of the linked ones."""
    for name, value in point.items():
        yield name
        yield from value if isinstance(value, dict) else ()


def leaders(study: Study, by: str) -> dict[str, Trial]:
    """The leader of each value; a value without a full-length trial is left out."""
    best = {value: leader(study, trials) for value, trials in grouped(study, by).items()}
    return {value: trial for value, trial in best.items() if trial is not None}


def rows(study: Study, by: str, ranked: list[Standing]) -> list[Row]:
    """One row per value: best first, values without a full-length trial last. ranked: the standings of the leaders.

    The value is in the column `params_KEY`, as in the rows of trials.
    objective, median: over the search's own full-length runs. The columns of `standing.rows` describe the value's
    leader. train_loss and val_loss (nats per token through the read-out), train_objective_loss and
    val_objective_loss (in the loss's own unit): means over the leader's runs with fresh seeds, or its own run where
    there are none. After `finalize` also test_loss and test_objective_loss, likewise, and test, test_seed_low,
    test_seed_high, test_text_low, test_text_high: the objective on the test split with 95 % intervals, on the scale
    on which differences are taken (such as nats per token).
    """
    by_trial = {row["trial"]: row for row in standing_rows(study, ranked)}
    order = [standing.number for standing in ranked]
    measured = attempt(finalize.on_test, study)
    on_test = {} if isinstance(measured, NotComputed) else measured
    table = []
    for value, trials in grouped(study, by).items():
        chosen = leader(study, trials)
        row = {parameter_column(by): value, **_counts(study, trials), **_leader(study, chosen, on_test)}
        table.append({**row, **{key: by_trial.get(row["best_trial"], {}).get(key) for key in _STANDING}})
    return sorted(table, key=lambda row: order.index(row["best_trial"]) if row["best_trial"] in order else len(order))


def _counts(study: Study, trials: list[Trial]) -> Row:
    scores = [score for trial in distinct(study, trials) if (score := objective(study, trial)) is not None]
    return {
        "median": statistics.median(scores) if scores else None,
        "full_length": sum(objective(study, trial) is not None for trial in trials),
        "trials": len(trials),
        "tokens": sum(trial.tokens + trial.repeated for trial in trials),
    }


def _leader(study: Study, trial: Trial | None, on_test: dict[int, Standing]) -> Row:
    if trial is None:
        keys = (*_LOSSES, *_TEST, "test", *(f"test_{of}_{end}" for of in ("seed", "text") for end in ("low", "high")))
        return {"objective": None, "best_trial": None, "loss_name": None, "name": "", **dict.fromkeys(keys)}
    target = objective_of(study)
    runs = [run for run in study.again(trial.number) if run.final is not None] or [trial]
    test_metrics, standing = [run.test or {} for run in runs], on_test.get(trial.number)
    return {
        "objective": objective(study, trial),
        "best_trial": trial.number,
        "loss_name": trial.config.get("loss"),
        "name": trial.name,
        **{key: _mean(run.final["metrics"].get(key) for run in runs if run.final is not None) for key in _LOSSES},
        **{key: _mean(metrics.get(key) for metrics in test_metrics) for key in _TEST},
        "test": standing and target.rank(standing.value),
        **_test_spans(target, standing),
    }


def _test_spans(target: Objective, standing: Standing | None) -> Row:
    row: Row = {}
    for of, span in (("seed", standing.seed if standing else None), ("text", standing.documents if standing else None)):
        low, high = sorted((target.rank(span.low), target.rank(span.high))) if span is not None else (None, None)
        row |= {f"test_{of}_low": low, f"test_{of}_high": high}
    return row


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean; None where a value is missing or there is none."""
    numbers = list(values)
    return None if not numbers or None in numbers else statistics.fmean(value for value in numbers if value is not None)


def note(study: Study, table: list[Row]) -> list[str]:
    """An explanation of the loss columns, where they are shown; and why there is no value on the test split, where it
    could not be computed."""
    notes = _explain_losses(study) if has_own_loss(table) else []
    if any(run.test for run in study.trials.values()) and all(row["test"] is None for row in table):
        measured = attempt(finalize.on_test, study)
        notes += [f"the test split: {measured}"] if isinstance(measured, NotComputed) else []
    return notes


def _explain_losses(study: Study) -> list[str]:
    test = objective_of(study).scale_unit
    unit = _LOSS_UNIT if test == _LOSS_UNIT else f"{_LOSS_UNIT} (test: {test})"
    return [
        f"train, val, test: {unit} through each loss's own read-out; own: as the loss counts, so not comparable from "
        "one loss to another"
    ]


def has_own_loss(table: list[Row]) -> bool:
    """Whether any leader was trained with another loss than cross-entropy, so that its loss is not nats per token."""
    return any(row["loss_name"] not in (None, "cross_entropy") for row in table)
