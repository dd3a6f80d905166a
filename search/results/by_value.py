"""The leaderboard by the values of one key (`--by loss`): the best trial of each, as they stand among each other."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from data.errors import UserError, nearest
from search.results import finalize
from search.results.leaderboard import Row, parameters
from search.results.standing import rows as standing_rows
from search.spec.objective import Objective
from search.stats.statistics import Standing
from search.strategy.groups import label
from search.study.scores import leader, objective, objective_of
from search.study.study import Study, Trial

_LOSS_UNIT = "nats per token"
# of the last reports, in nats per token through the read-out, or as the loss itself counts
_LOSSES = ("train_loss", "val_loss", "train_objective_loss", "val_objective_loss")
_TEST = ("test_loss", "test_objective_loss")
_STANDING = (
    *("group", "seeds", "value", "seed_low", "seed_high", "text_low", "text_high"),
    *("difference", "difference_low", "difference_high"),
)


def grouped(study: Study, by: str) -> dict[str, list[Trial]]:
    """The search's trials by the value of a config key, or of a parameter of the space that sets several keys.

    Raises UserError for a key that the trials do not have.
    """
    found: dict[str, list[Trial]] = {}
    for trial in study.searched:
        if by in trial.config:
            value = trial.config[by]
        elif by in trial.point:
            value = trial.point[by]
        else:
            searched = sorted({key for one in study.searched for key in (*one.point, *parameters(one.point))})
            raise UserError(f"--by {by}: not a key of the config; {nearest(by, searched or trial.config)}")
        found.setdefault(label(value), []).append(trial)
    return found


def leaders(study: Study, by: str) -> dict[str, Trial]:
    """The leader among the trials of each value; values without a trial of full length are left out."""
    found = {value: leader(study, trials) for value, trials in grouped(study, by).items()}
    return {value: trial for value, trial in found.items() if trial is not None}


def rows(study: Study, by: str, found: list[Standing]) -> list[Row]:
    """A row per value, the leader first, those without a full-length trial last. found: the leaders' standings.

    objective, median: of the search's own runs at full length. What `standing.rows` says of the leader, and of its
    runs with fresh seeds (else of its own) the means of train_loss and val_loss (nats per token through the
    read-out) and of train_objective_loss and val_objective_loss (as the loss counts). Once the study was finalized
    test_loss and test_objective_loss likewise, and test, test_seed_low, test_seed_high, test_text_low, test_text_high:
    the objective on the test split, where its differences are compared (nats per token, say), with 95 % intervals.
    """
    about = {row["trial"]: row for row in standing_rows(study, found)}
    order = [standing.number for standing in found]
    on_test = finalize.on_test(study)
    made = []
    for value, trials in grouped(study, by).items():
        chosen = leader(study, trials)
        row = {by: value, **_counts(study, trials), **_leader(study, chosen, on_test)}
        made.append({**row, **{key: about.get(row["best_trial"], {}).get(key) for key in _STANDING}})
    return sorted(made, key=lambda row: order.index(row["best_trial"]) if row["best_trial"] in order else len(order))


def _counts(study: Study, trials: list[Trial]) -> Row:
    scores = [score for trial in trials if (score := objective(study, trial)) is not None]
    return {
        "median": statistics.median(scores) if scores else None,
        "full_length": len(scores),
        "trials": len(trials),
        "tokens": sum(trial.tokens + trial.repeated for trial in trials),
    }


def _leader(study: Study, trial: Trial | None, on_test: dict[int, Standing]) -> Row:
    if trial is None:
        keys = (*_LOSSES, *_TEST, "test", *(f"test_{of}_{end}" for of in ("seed", "text") for end in ("low", "high")))
        return {"objective": None, "best_trial": None, "loss_name": None, "name": "", **dict.fromkeys(keys)}
    target = objective_of(study)
    runs = [run for run in study.again(trial.number) if run.final is not None] or [trial]
    scored, one = [run.test or {} for run in runs], on_test.get(trial.number)
    return {
        "objective": objective(study, trial),
        "best_trial": trial.number,
        "loss_name": trial.config.get("loss"),
        "name": trial.name,
        **{key: _mean(run.final["metrics"].get(key) for run in runs if run.final is not None) for key in _LOSSES},
        **{key: _mean(metrics.get(key) for metrics in scored) for key in _TEST},
        "test": one and target.rank(one.value),
        **_test_spans(target, one),
    }


def _test_spans(target: Objective, one: Standing | None) -> Row:
    row: Row = {}
    for of, span in (("seed", one.seed if one else None), ("text", one.documents if one else None)):
        low, high = sorted((target.rank(span.low), target.rank(span.high))) if span is not None else (None, None)
        row |= {f"test_{of}_low": low, f"test_{of}_high": high}
    return row


def _mean(values: Iterable[float | None]) -> float | None:
    """None where one of them is not known."""
    known = list(values)
    return None if not known or None in known else statistics.fmean(value for value in known if value is not None)


def note(study: Study, table: list[Row]) -> list[str]:
    """What the columns of losses are; nothing where they are not shown."""
    if not own(table):
        return []
    test = objective_of(study).scale_unit
    unit = _LOSS_UNIT if test == _LOSS_UNIT else f"{_LOSS_UNIT} (test: {test})"
    return [
        f"train, val, test: {unit} through each loss's own read-out; own: as the loss counts, so not comparable from "
        "one loss to another"
    ]


def own(table: list[Row]) -> bool:
    """Whether a leader's loss is another number than its nats per token."""
    return any(row["loss_name"] not in (None, "cross_entropy") for row in table)
