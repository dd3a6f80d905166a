"""The look of each trial in the report's charts: its CSS class, mark and label, and which trials are drawn. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from search.report.curves import Ending, ending
from search.results.leaderboard import order
from search.study.scores import best, objective, objective_of
from search.study.study import Study, Trial
from trainer import units

MOST = 300  # trials drawn, the first of the leaderboard; more would overlap beyond recognition
QUARTERS = ("q1", "q2", "q3", "q4")
ENDS: dict[Ending, str] = {"full": "circle", "pruned": "cross", "broken": "triangle", "going": "bar"}
_LOOKS: dict[Ending, str] = {"pruned": "cut", "broken": "broke", "going": "open"}


@dataclass(frozen=True)
class Shown:
    """A trial as drawn. look: its CSS class, lead, q1 to q4 (quarter by objective, q1 the best), cut, broke or open;
    mark: its shape, which shows the same without colour; value: its objective, None without one."""

    trial: Trial
    look: str
    mark: str
    label: str
    value: float | None

    @property
    def number(self) -> int:
        return self.trial.number

    @property
    def size(self) -> float:
        """Half the width of its mark in px; better trials are larger."""
        return {"lead": 6.5, "q1": 5.0, "q2": 4.2, "q3": 3.5, "q4": 3.0}.get(self.look, 3.5)


def shown(study: Study) -> list[Shown]:
    """The first MOST trials of the leaderboard, the worst first, so that better ones are drawn over them."""
    trials = order(study)[:MOST]
    full = [trial.number for trial in trials if objective(study, trial) is not None]
    leader = best(study)
    return [_shown(study, trial, full, leader) for trial in reversed(trials)]


def _shown(study: Study, trial: Trial, full: list[int], leader: Trial | None) -> Shown:
    value = objective(study, trial)
    if trial is leader:
        look, mark = "lead", "diamond"
    elif value is not None:
        look, mark = QUARTERS[4 * full.index(trial.number) // len(full)], "circle"
    else:
        end = ending(study, trial)
        look, mark = _LOOKS[end], ENDS[end]
    return Shown(trial, look, mark, label(study, trial), value)


def label(study: Study, trial: Trial) -> str:
    """One line on a trial, for tooltips."""
    value = objective(study, trial)
    score = "" if value is None else f", {objective_of(study).unit} {objective_of(study).show(value)}"
    rung = f" at {units.count(trial.rung)}" if trial.rung and trial.status in ("pruned", "paused") else ""
    of = "" if trial.of is None else f" (trial {trial.of} again, fresh seed {trial.round})"
    return f"trial {trial.number}{of}: {trial.name}; {trial.status.replace('_', ' ')}{rung}{score}"
