"""What the pictures of losses show: of a study's trials, of the best for each value of a key, of one run. Pure.

`training_charts` draws them as SVG for the report, `figures` as PNG. The rules are here: values are those of the
objective's curve (validation loss through each loss's own read-out, so that losses compare) on the fixed subset of the
text; the full split's value stands beside a curve. Where trials have several tokenizers and the objective does not
compare them, the curve is that of the objective which does.
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
from trainer import curve, records
from trainer.curve import Curve

NAMED = 5  # lines with a style and a label of their own; more than that nobody tells apart
Ending = Literal["full", "pruned", "broken", "going"]


@dataclass(frozen=True)
class Line:
    """One trial. named: with a style and a label of its own. seeds: full-split values of its runs with fresh seeds.
    trial: its number; None for a run of no study."""

    label: str
    curve: Curve
    ending: Ending = "full"
    named: bool = True
    leader: bool = False
    seeds: tuple[float, ...] = ()
    trial: int | None = None


@dataclass(frozen=True)
class Chart:
    """A picture's content. unit: of all values. floor: the entropy of the text in that unit, where it is known."""

    title: str
    unit: str
    lines: tuple[Line, ...]
    floor: float | None = None


def of_trials(study: Study) -> Chart | None:
    """Every trial of the search that has reported; the leader and the next best have names. None without any."""
    leader = best(study)
    order = [trial for trial in leaderboard.order(study) if trial is not leader]
    chosen = [*([leader] if leader is not None else []), *order]
    lines = _lines(study, [(f"trial {trial.number}", trial) for trial in chosen])
    return _chart(study, f"{study.header.name}: {len(lines)} trial{'s' * (len(lines) > 1)}", lines) if lines else None


def by(study: Study, key: str) -> Chart | None:
    """The best trial for each value of a config key, best first: of those of full length or, where a value has none,
    the one that came furthest. None where no trial has reported. Raises UserError for a key that is not there."""
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
    """One run, from its folder. Raises UserError where it has no reports."""
    reports = records.read_reports(folder)
    floor = records.read_notes(folder).get(records.FLOOR, "").split()
    target = OBJECTIVES[DEFAULT]
    line = Line(folder.name, curve.of(reports, target.curve), "full" if reports[-1]["final"] else "going", leader=True)
    return Chart(f"run {folder.resolve().name}", target.curve_unit, (line,), float(floor[0]) if floor else None)


def values_of(study: Study, key: str) -> set[str]:
    """The values of a config key among trials that have reported."""
    return {str(trial.config.get(key)) for trial in study.searched if trial.reports}


def _lines(study: Study, chosen: Sequence[tuple[str, Trial]]) -> list[Line]:
    """Lines of those that have anything to show; the first NAMED have names."""
    metric, leader, lines = _drawn_objective(study).curve, best(study), list[Line]()
    for head, trial in chosen:
        drawn = curve.of(trial.reports, metric)
        if trial.status not in FULL:
            drawn = replace(drawn, end=None)  # its driver died between the last report and the end
        if not drawn.val and drawn.end is None:
            continue
        named = len(lines) < NAMED
        again = (curve.of(run.reports, metric).end for run in study.again(trial.number) if run.final)
        seeds = tuple(end[1] for end in again if end is not None)
        label, end = _label(study, head, trial), ending(study, trial)
        lines.append(Line(label, drawn, end, named, trial is leader, seeds, trial.number))
    return lines


def ending(study: Study, trial: Trial) -> Ending:
    """How a trial ended: full, with an objective; broken, also where it has none at full length."""
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
    # one text has one entropy per byte, but for rounding, whatever its tokenizer; per token each has its own
    common = floors[0] if floors and math.isclose(min(floors), max(floors)) else None
    return Chart(title, drawn.curve_unit, tuple(lines), common)


def _drawn_objective(study: Study) -> Objective:
    """The objective whose curve is drawn."""
    target = objective_of(study)
    several = len(values_of(study, "tokenizer")) > 1
    return for_tokenizers() if several and not target.compares_tokenizers else target
