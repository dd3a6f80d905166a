"""The data of loss curves: of a study's trials, of the best trial for each value of a key, of one run. Pure.

`training_charts` draws them as SVG for the report, `figures` as PNG. A curve is the objective's curve metric
(validation loss through each loss's own read-out, so that losses are comparable) on the fixed subset of the text; the
value on the full split is separate from the curve. Where trials differ in tokenizer and the objective is not comparable
across tokenizers, the curve is that of the objective that is.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from search.results import leaderboard
from search.results.by_value import grouped
from search.results.notes import floors_of
from search.spec.objective import DEFAULT, OBJECTIVES, Objective, for_tokenizers
from search.study.journal import FULL
from search.study.scores import BROKEN, best, leader, objective, objective_of
from search.study.study import Study, Trial
from trainer import curve, run_folder
from trainer.curve import Curve

NAMED = 5  # lines with a style and a label of their own; more could not be told apart
Ending = Literal["full", "pruned", "broken", "going"]


@dataclass(frozen=True)
class Line:
    """The curve of one trial. named: with a style and a label of its own. seeds: full-split values of its runs with
    fresh seeds. trial: its number; None for a run outside a study."""

    label: str
    curve: Curve
    ending: Ending = "full"
    named: bool = True
    leader: bool = False
    seeds: tuple[float, ...] = ()
    trial: int | None = None


@dataclass(frozen=True)
class Chart:
    """The content of one picture. unit: of all values. floor: the entropy of the text in that unit, None if unknown."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    floor: float | None = None


def of_trials(study: Study) -> Chart | None:
    """All searched trials with reports; the leader and the next best are named lines. None without reports."""
    leader = best(study)
    order = [trial for trial in leaderboard.order(study) if trial is not leader]
    chosen = [*([leader] if leader is not None else []), *order]
    lines = _lines(study, [(f"trial {trial.number}", trial) for trial in chosen])
    return _chart(study, f"{study.header.name}: {len(lines)} trial{'s' * (len(lines) > 1)}", lines) if lines else None


def by(study: Study, key: str) -> Chart | None:
    """The best trial for each value of a config key, best first: the value's leader or, where no trial of the value is
    at full length, the one that came furthest. None without reports. Raises UserError for an unknown key."""
    place = {trial.number: at for at, trial in enumerate(leaderboard.order(study))}
    chosen: list[tuple[str, Trial]] = []
    for value, trials in grouped(study, key).items():
        begun = sorted((trial for trial in trials if trial.reports), key=lambda trial: place[trial.number])
        if begun:
            chosen.append((value, leader(study, trials) or begun[0]))
    chosen.sort(key=lambda pair: place[pair[1].number])
    lines = _lines(study, chosen)
    return _chart(study, f"{study.header.name}: the best trial for each {key}", lines) if lines else None


def of_leader(study: Study) -> Chart | None:
    """The leader alone; None without one."""
    leader = best(study)
    if leader is None:
        return None
    lines = _lines(study, [(f"trial {leader.number}", leader)])
    return _chart(study, f"{study.header.name}: the leader, trial {leader.number}", lines)


def of_run(folder: Path) -> Chart:
    """One run, read from its folder. Raises UserError where it has no reports."""
    reports = run_folder.read_reports(folder)
    floor = run_folder.read_notes(folder).get(run_folder.FLOOR, "").split()
    target = OBJECTIVES[DEFAULT]
    line = Line(folder.name, curve.of(reports, target.curve), "full" if reports[-1]["final"] else "going", leader=True)
    return Chart(f"run {folder.resolve().name}", target.curve_unit, (line,), float(floor[0]) if floor else None)


def values_of(study: Study, key: str) -> set[str]:
    """The values of a config key among searched trials with reports."""
    return {str(trial.config.get(key)) for trial in study.searched if trial.reports}


def _lines(study: Study, chosen: Sequence[tuple[str, Trial]]) -> list[Line]:
    """The lines of those chosen trials that have a point; the first NAMED of them are named."""
    metric, leader, lines = _drawn_objective(study).curve, best(study), list[Line]()
    for head, trial in chosen:
        drawn = curve.of(trial.reports, metric)
        if trial.status not in FULL:
            drawn = replace(drawn, end=None)  # the driver died between the last report and the record of the end
        if not drawn.val and drawn.end is None:
            continue
        named = len(lines) < NAMED
        again = (curve.of(run.reports, metric).end for run in study.again(trial.number) if run.final)
        seeds = tuple(end[1] for end in again if end is not None)
        label, end = _label(study, head, trial), ending(study, trial)
        lines.append(Line(label, drawn, end, named, trial is leader, seeds, trial.number))
    return lines


def ending(study: Study, trial: Trial) -> Ending:
    """full: with an objective; pruned: stopped or paused; broken: also at full length without one; going: not ended."""
    if objective(study, trial) is not None:
        return "full"
    if trial.status in ("pruned", "paused"):
        return "pruned"
    return "broken" if trial.status in (*BROKEN, *FULL) else "going"


def _label(study: Study, head: str, trial: Trial) -> str:
    """`trial 16: perplexity 1.909 (lr=4.5e-3 L2)`; for a value of a key `brier: trial 3, perplexity 2.384 (lr=...)`."""
    value = objective(study, trial)
    target = objective_of(study)
    score = trial.status.replace("_", " ") if value is None else f"{target.unit} {target.show(value)}"
    which = "" if head == f"trial {trial.number}" else f"trial {trial.number}, "
    return f"{head}: {which}{score} ({' '.join(trial.name.split())})"


def _chart(study: Study, title: str, lines: list[Line]) -> Chart:
    drawn = _drawn_objective(study)
    floors = [floor[drawn.curve] for floor in floors_of(study).values() if drawn.curve in floor]
    # per byte the entropy is the same for every tokenizer (up to rounding); per token it differs, and no line is drawn
    common = floors[0] if floors and math.isclose(min(floors), max(floors)) else None
    return Chart(title, drawn.curve_unit, tuple(lines), common)


def _drawn_objective(study: Study) -> Objective:
    """The objective whose curve metric is drawn."""
    target = objective_of(study)
    several = len(values_of(study, "tokenizer")) > 1
    return for_tokenizers() if several and not target.compares_tokenizers else target
