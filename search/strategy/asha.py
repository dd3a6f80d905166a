"""ASHA, asynchronous successive halving (Li et al. 2020, arXiv 1810.05934). Pure: no Ray, no clock, no files.

At each rung a trial goes on when it is among the best 1/factor of the values recorded there so far, its own
included. What becomes of the others is the mode:

stop     They end. As nobody comes back, the best so far always goes on: with n values the best max(1, n // factor),
         and who ties with the last of them. Of n trials in random order sum over i of max(1, i // factor) / i
         go on: 8.3 of 32 at factor 4 (Ray Tune: 10.3).
promote  They pause, and go on when they are among the best n // factor of those that have come by then: the first
         to arrive have no advantage. Where nothing else can run any more, the best of a rung from which nobody went
         on is promoted, so that a study always brings one trial to its end.

Trials are divided among brackets; bracket b is first compared at rung b, and only with its own. Where a spec says
`compare: loss`, trials of one loss are compared with each other alone: a loss that begins badly still has its best
brought to the end. A few trials are exempt: their values count like all others, but they are never stopped, so that
at the end it can be said what the rungs were worth. Bracket and exemption are functions of the seed and the trial's
number (in its group).

Where Ray Tune's own differs, and misleads: there a value that arrives late also fills the rungs below it, and
NaN is never stopped. Here a rung holds only what was measured at that rung, once per trial, and no value
that is not finite.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, replace
from typing import Literal

from search.spec.study_spec import Asha as Settings
from search.spec.study_spec import StudySpec
from search.study.study import Study

Action = Literal["continue", "stop", "pause", "promote"]
# a study that cannot tell what its rungs are worth gets three exempt trials early, whatever the share
_FIRST, _EACH = 3, 6


@dataclass(frozen=True)
class Decision:
    """What becomes of a trial at a rung.

    value: what was compared, lower is better; cutoff: the largest value that goes on; of: values in the rung.
    """

    action: Action
    value: float
    cutoff: float
    of: int


@dataclass(frozen=True)
class _Entry:
    decision: Decision
    exempt: bool

    @property
    def promoted(self) -> bool:
        return self.decision.action in ("continue", "promote") and not self.exempt


class Asha:
    """The rungs of one study, keyed by group, bracket and nominal token count.

    group: the value that the spec compares, "" where it compares none.
    """

    def __init__(self, factor: int, mode: Literal["stop", "promote"] = "stop") -> None:
        if factor < 2:
            raise ValueError(f"factor is {factor}; it must be at least 2")
        self.factor, self.mode = factor, mode
        self._rungs: dict[tuple[str, int, int], dict[int, _Entry]] = {}

    def report(
        self, trial: int, rung: int, value: float, bracket: int = 0, exempt: bool = False, group: str = ""
    ) -> Decision:
        """Record a trial's value at a rung and decide.

        A trial that comes to a rung again (its worker died, it goes on from an earlier checkpoint) gets the
        decision that it had. Raises ValueError for a value that is not finite: such a trial has diverged.
        """
        if not math.isfinite(value):
            raise ValueError(f"trial {trial} reports {value} at rung {rung}; a diverged trial is in no rung")
        entries = self._rungs.setdefault((group, bracket, rung), {})
        if trial not in entries:
            values = sorted([value, *(entry.decision.value for entry in entries.values())])
            some = len(values) // self.factor
            cutoff = values[max(1, some) - 1]
            goes_on = exempt or (value <= cutoff and (some > 0 or self.mode == "stop"))
            refused: Action = "stop" if self.mode == "stop" else "pause"
            decision = Decision("continue" if goes_on else refused, value, cutoff, len(values))
            entries[trial] = _Entry(decision, exempt)
        return entries[trial].decision

    def promotion(self, last: bool = False) -> tuple[int, int] | None:
        """The paused trial that may go on now, and its rung: the furthest first, there the best. Or None.

        Of several groups at one rung the one from which the fewest went on is first.
        last: nothing runs and nothing else will: the best goes on where nobody has.
        """
        for at in sorted(self._rungs, key=self._urgency):
            entries, rung = self._rungs[at], at[2]
            ranked = sorted(entries, key=lambda trial: (entries[trial].decision.value, trial))
            for trial in ranked[: len(ranked) // self.factor]:
                if entries[trial].decision.action == "pause":
                    return trial, rung
            paused = [trial for trial in ranked if entries[trial].decision.action == "pause"]
            if last and paused and not any(entry.promoted for entry in entries.values()):
                return paused[0], rung
        return None

    def _urgency(self, at: tuple[str, int, int]) -> tuple[int, int, int, str]:
        group, bracket, rung = at
        return -rung, bracket, sum(entry.promoted for entry in self._rungs[at].values()), group

    def promote(self, trial: int, rung: int, bracket: int = 0, group: str = "") -> Decision:
        """Let a paused trial go on. Returns what is now decided on it; cutoff and of are the rung's of today."""
        entries = self._rungs[group, bracket, rung]
        values = sorted(entry.decision.value for entry in entries.values())
        cutoff = values[max(1, len(values) // self.factor) - 1]
        decision = replace(entries[trial].decision, action="promote", cutoff=cutoff, of=len(values))
        entries[trial] = replace(entries[trial], decision=decision)
        return decision

    def restore(
        self, trial: int, rung: int, decision: Decision, bracket: int = 0, exempt: bool = False, group: str = ""
    ) -> None:
        """Take in a decision that stands in the journal; of several on one rung the last holds."""
        self._rungs.setdefault((group, bracket, rung), {})[trial] = _Entry(decision, exempt)


def rebuild(spec: StudySpec, study: Study) -> Asha | None:
    """The rungs as a study's decisions tell them; None where trials are not compared on the way."""
    if spec.scheduler is None:
        return None
    asha = Asha(spec.scheduler.asha.factor, spec.scheduler.asha.mode)
    for trial in study.trials.values():
        for made in trial.decisions:
            decision = Decision(made["action"], made["value"], made["cutoff"], made["of"])
            asha.restore(trial.number, made["rung"], decision, trial.bracket, trial.exempt, trial.group)
    return asha


def bracket(settings: Settings, seed: int, number: int, n_rungs: int, group: str = "") -> int:
    """The bracket of a trial. number: its place in its group; n_rungs: of bracket 0.

    Drawn with Hyperband's shares, which give each bracket about the same tokens (Li et al. 2018, JMLR 18): a bracket
    that halves s times gets factor^s / (s + 1) of the trials.
    """
    halvings = [n_rungs - b for b in range(min(settings.brackets, n_rungs))]
    if len(halvings) < 2:
        return 0
    shares = [settings.factor**s / (s + 1) for s in halvings]
    return random.Random(f"bracket {_salted(seed, group)} {number}").choices(range(len(shares)), shares)[0]


def exempt(settings: Settings, seed: int, number: int, group: str = "") -> bool:
    """Whether a trial is never stopped: one of each 1/share trials, and three of the first 18 in advance.

    number: its place in its group.
    """
    salted = _salted(seed, group)
    if not settings.exempt:
        return False
    period = max(1, round(1 / settings.exempt))
    each = min(period, _EACH)
    if number < _FIRST * each:
        return number % each == _drawn(salted, number // each, each)
    return number >= _FIRST * period and number % period == _drawn(salted, number // period, period)


def _salted(seed: int, group: str) -> str:
    return f"{seed} {group}" if group else str(seed)


def _drawn(seed: str, block: int, size: int) -> int:
    return random.Random(f"exempt {seed} {block} {size}").randrange(size)
