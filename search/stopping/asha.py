"""ASHA, asynchronous successive halving (Li et al. 2020, arXiv 1810.05934).

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

Ray Tune's own differs: there a value that arrives late also fills the rungs below it, and NaN is never stopped. Here
a rung holds only what was measured at that rung, once per trial, and no value that is not finite.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field

from search.stopping.rule import Action, Decision, Remark, Rule, Rung, Settings, salted
from trainer.config import Whole
from trainer.units import count


class AshaSettings(Settings):
    """Asynchronous successive halving: at each rung only the best 1/factor go on (Li et al. 2020, arXiv 1810.05934).

    Where it is used and nobody names a `schedule`, that is wsd: under one that decays over the whole trial, what is
    compared at a rung says little about the end.
    """

    factor: Annotated[int, Field(ge=2)] = 4
    """the best 1/factor go on; each rung is at factor times the tokens of the one before"""
    mode: Literal["stop", "promote"] = "stop"
    """stop: who is not among the best so far ends at once. promote: every trial pauses at its rung, keeping its
    checkpoint, and goes on when it is among the best of those that came (the paper's way)"""
    brackets: Whole = 1
    """trials are divided among so many brackets; each later one is first compared a rung later (Hyperband's hedge)"""

    def rungs(self, max_tokens: int, bracket: int = 0) -> list[int]:
        rungs, rung = [], self.first_rung
        while rung < max_tokens:
            rungs.append(rung)
            rung *= self.factor
        return rungs[bracket:]

    def describe(self, compare: str | None = None) -> list[str]:
        among = "" if compare is None else f" of each {compare}"
        others = {"stop": "the others end", "promote": "the others pause"}[self.mode]
        brackets = [f"{self.brackets} brackets"] if self.brackets > 1 else []
        return [f"the best 1/{self.factor}{among} go on", others, *brackets]

    def rule(self) -> Asha:
        return Asha(self.factor, self.mode)

    def advice(self, rungs: Sequence[int], trials: int | None = None) -> Iterator[Remark]:
        if self.brackets > len(rungs):
            yield (
                "brackets",
                f"{self.brackets}, but there are {len(rungs)} rungs ({', '.join(map(count, rungs))}); "
                f"{len(rungs)} brackets are used",
            )
        yield from super().advice(rungs, trials)

    def bracket(self, seed: int, number: int, n_rungs: int, group: str = "") -> int:
        """Drawn with Hyperband's shares, which give each bracket about the same tokens (Li et al. 2018, JMLR 18): a
        bracket that halves s times gets factor^s / (s + 1) of the trials."""
        halvings = [n_rungs - b for b in range(min(self.brackets, n_rungs))]
        if len(halvings) < 2:
            return 0
        shares = [self.factor**s / (s + 1) for s in halvings]
        return random.Random(f"bracket {salted(seed, group)} {number}").choices(range(len(shares)), shares)[0]


class Asha(Rule):
    """The rungs of one study. Raises ValueError for a factor below 2, which would stop nobody."""

    def __init__(self, factor: int, mode: Literal["stop", "promote"] = "stop") -> None:
        super().__init__()
        if factor < 2:
            raise ValueError(f"factor is {factor}; it must be at least 2")
        self.factor, self.mode = factor, mode
        self.pauses = mode == "promote"

    def decide(self, trial: int, at: Rung, value: float) -> Decision:
        values = sorted([value, *self.values(at)])
        some = len(values) // self.factor
        cutoff = values[max(1, some) - 1]
        refused: Action = "stop" if self.mode == "stop" else "pause"
        goes_on = value <= cutoff and (some > 0 or self.mode == "stop")
        return Decision("continue" if goes_on else refused, value, cutoff, len(values))

    def promotion(self, last: bool = False) -> tuple[int, int] | None:
        """The paused trial that may go on now, and its rung: the furthest first, there the best. Or None.

        Of several groups at one rung the one from which the fewest went on is first.
        last: nothing runs and nothing else will: the best goes on where nobody has.
        """
        for at in sorted(self.entries, key=self._urgency):
            entries = self.entries[at]
            ranked = sorted(entries, key=lambda trial: (entries[trial].decision.value, trial))
            for trial in ranked[: len(ranked) // self.factor]:
                if entries[trial].decision.action == "pause":
                    return trial, at.tokens
            paused = [trial for trial in ranked if entries[trial].decision.action == "pause"]
            if last and paused and not any(entry.promoted for entry in entries.values()):
                return paused[0], at.tokens
        return None

    def _urgency(self, at: Rung) -> tuple[int, int, int, str]:
        return -at.tokens, at.bracket, sum(entry.promoted for entry in self.entries[at].values()), at.group

    def promote(self, trial: int, rung: int, bracket: int = 0, group: str = "") -> Decision:
        """Let a paused trial go on. Returns the new decision on it; cutoff and of are the rung's of now. Raises
        ValueError where it is not paused."""
        at = Rung(group, bracket, rung)
        values = self.values(at)
        cutoff = values[max(1, len(values) // self.factor) - 1] if values else None
        decision = replace(super().promote(trial, rung, bracket, group), cutoff=cutoff)
        self.restore(trial, rung, decision, bracket, self.entries[at][trial].exempt, group)
        return decision
