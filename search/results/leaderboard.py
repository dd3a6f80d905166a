"""The leaderboard: pure functions of a study. Frames for notebooks:

from search import leaderboard
leaderboard.frame("quickstart")     # a row per trial, best first
leaderboard.reports("quickstart")   # a row per report: curves against tokens
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.stats.statistics import fit
from search.study.journal import AT_REST, FULL
from search.study.lookup import open_study
from search.study.study import Study, Trial

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
UNITS = {"val_perplexity": "perplexity", "val_bits_per_byte": "bits/byte"}
MAINRUN = ("val_nats_per_char", "mainrun_nats_per_char", "mainrun_coverage")
BROKEN = ("diverged", "out_of_memory", "failed")


def objective_name(study: Study) -> str:
    """The metric that this study ranks on."""
    return str(study.header.get("spec", {}).get("objective", "val_perplexity"))


def objective(study: Study, trial: Trial) -> float | None:
    """The trial's objective, or None: only trials that ran to full length have one, and it is finite."""
    if trial.final is None:
        return None
    value = trial.final["metrics"].get(objective_name(study))
    return value if value is not None and math.isfinite(value) else None


def score(study: Study, trial: Trial) -> float:
    """A trial's objective where differences are compared: log-perplexity in nats, or bits per byte; inf without."""
    value = objective(study, trial)
    if value is None:
        return math.inf
    return math.log(value) if objective_name(study) == "val_perplexity" else value


def seed_scores(study: Study, number: int) -> list[float]:
    """The scores of a finalist's runs with fresh seeds, round by round, up to the first that has not ended."""
    found = []
    for trial in study.again(number):
        if trial.status not in AT_REST:
            break
        found.append(score(study, trial))
    return found


def finalists(study: Study) -> dict[int, list[float]]:
    """The scores of all finalists' runs, by trial; of those whose every run so far reached full length."""
    chosen = sorted({trial.of for trial in study.trials.values() if trial.of is not None})
    found = {number: seed_scores(study, number) for number in chosen}
    return {number: scores for number, scores in found.items() if scores and all(map(math.isfinite, scores))}


def best(study: Study) -> Trial | None:
    """The trial that leads, or None as long as none has ended at full length.

    Where there are finalists, the one with the best mean over fresh seeds; else the one with the best objective.
    """
    return leader(study, study.searched)


def leader(study: Study, trials: list[Trial]) -> Trial | None:
    """Who leads among these trials of the search: by the same rule."""
    means = fit(finalists(study)).means
    if again := [trial.number for trial in trials if trial.number in means]:
        return study.trials[min(again, key=lambda number: means[number])]
    ranked = [(value, trial.number) for trial in trials if (value := objective(study, trial)) is not None]
    return study.trials[min(ranked)[1]] if ranked else None


def parameters(point: dict[str, Any]) -> dict[str, Any]:
    """A point with its linked parameters (`width: {n_embd: 384, n_head: 6}`) laid out singly."""
    flat: dict[str, Any] = {}
    for name, value in point.items():
        flat.update(value if isinstance(value, dict) else {name: value})
    return flat


def rows(study: Study) -> list[Row]:
    """A row per trial, best first.

    objective, val_loss, val_perplexity, val_bits_per_byte, val_accuracy: on the full validation split at the end
    of a trial of full length, else None, so that no sort mixes budgets. best_on_the_way: the least val_perplexity
    on the subset scored at reports. last: val_perplexity at the last report, whatever its length.
    With `split: mainrun` also MAINRUN (see trainer.mainrun), at the end as well.
    """
    return [_row(study, trial) for trial in order(study)]


def order(study: Study) -> list[Trial]:
    """Full-length trials by objective; then those stopped, going on or interrupted, the longest first; then the
    waiting; then those that broke."""
    return sorted(study.searched, key=lambda trial: _place(study, trial))


def _place(study: Study, trial: Trial) -> tuple[float, ...]:
    value = objective(study, trial)
    if value is not None:
        return (0, 0, value, trial.number)
    group = 3 if trial.status in (*BROKEN, *FULL) else (1 if trial.reports else 2)
    last = _perplexity(trial.reports[-1]) if trial.reports else math.inf
    return (group, -_reached(trial), last if math.isfinite(last) else math.inf, trial.number)


def _reached(trial: Trial) -> int:
    """Where a trial is compared: its last rung, or else its tokens (true tokens differ with the batch size)."""
    return max((report["rung"] or 0 for report in trial.reports), default=0) or trial.tokens


def _perplexity(report: dict[str, Any]) -> float:
    return float(report["metrics"].get("val_perplexity", math.nan))


def on_the_way(trial: Trial) -> float | None:
    """The least finite val_perplexity on the subset, the end's included."""
    values = [_perplexity(report) for report in trial.reports if not report["final"]]
    values += [math.exp(min(r["metrics"].get("val_loss_subset", math.nan), 700)) for r in trial.reports if r["final"]]
    return min((value for value in values if math.isfinite(value)), default=None)


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
        "best_on_the_way": on_the_way(trial),
        "last": last.get("val_perplexity"),
        "train_loss": last.get("train_loss"),
        "tokens": trial.tokens,
        "seconds": trial.seconds or last.get("seconds"),
        "n_parameters": trial.n_parameters,
        "peak_memory_mb": max(memory, default=None),
        "cause": trial.cause,
        **parameters(trial.point),
    }


def frame(study: Study | Path | str, storage: Path | None = None) -> pd.DataFrame:
    """A row per trial, best first; columns as in `rows`, then one for each searched parameter.

    study: a Study, its folder, its name in the storage (default ./runs), or its name on the tracking server.
    """
    import pandas as pd

    return pd.DataFrame(rows(open_study(study, storage)))


def reports(study: Study | Path | str, storage: Path | None = None) -> pd.DataFrame:
    """A row per report: trial, name, status, step, tokens, rung, final, then each metric. `study` as in `frame`.

    On a final report val_* are of the full split, before it of the fixed subset (compare val_loss_subset).
    """
    import pandas as pd

    found = open_study(study, storage)
    return pd.DataFrame(
        {
            "trial": trial.number,
            "name": trial.name,
            "status": trial.status,
            **{key: report[key] for key in ("step", "tokens", "rung", "final")},
            **report["metrics"],
        }
        for trial in sorted(found.trials.values(), key=lambda trial: trial.number)
        for report in trial.reports
    )
