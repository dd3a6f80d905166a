"""ASHA, asynchronous successive halving (Li et al. 2020, arXiv 1810.05934), and synchronous successive halving.

At each rung a trial continues if it is among the best 1/factor of the values recorded there so far, its own included.
The mode decides what happens to the others:

stop     They are stopped. A stopped trial cannot be resumed later, so the best value so far always continues: of n
         values the best max(1, n // factor), and ties with the last of them. Of n trials in random order the sum over i
         of max(1, i // factor) / i continue: 8.3 of 32 at factor 4 (Ray Tune: 10.3).
promote  They are paused, and promoted once they are among the best n // factor of the n trials that have reached the
         rung by then: early trials have no advantage. When nothing else can run any more, the best trial of a rung from
         which none continued is promoted, so that a study always trains at least one trial to its end.

In both modes a decision depends on the values that came before it, and so on how fast the workers are: two runs of one
spec may train other trials to their end.

synchronous  Trials are divided into cohorts by their number, and a rung of a cohort is decided once all of its trials
         that can come to it have come: the best max(1, n // factor) of these n continue, ties by number. This is
         successive halving (Jamieson and Talwalkar 2016, arXiv 1502.07943), one bracket of Hyperband after the other;
         Ray Tune's HyperBandScheduler and Syne Tune's SynchronousHyperband wait in the same way. A trial pauses
         with its checkpoint while it waits, and its worker begins the next cohort, so that workers are idle at the end
         of the study only. A trial that breaks is not waited for; the last cohort may be smaller. Which trials continue
         is then a function of the values alone, whatever the order of arrival and the number of workers.

Trials are divided among brackets; the first rung of bracket b is rung b, and trials are compared within their bracket
only. With `compare: loss` trials are compared within their loss only: of a loss that begins badly the best trial is
still trained to the end. A few trials are exempt: their values count like all others, but they are never stopped, so
that the study can report how well each rung predicted the final order. Bracket and exemption are functions of the seed
and the trial's number (in its group).

Ray Tune's ASHA differs: there a value that arrives late is also recorded at the rungs below it, and NaN is never
stopped. Here a rung has only values that were measured at that rung, one per trial, all finite.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Annotated, Literal

from pydantic import Field, model_validator

from search.stopping.rule import Action, Awaited, Decision, Remark, Rule, Rung, Settings, nobody, salted
from trainer.config import Whole
from trainer.keys import RuleError
from trainer.units import count


class AshaSettings(Settings):
    """Asynchronous successive halving: at each rung only the best 1/factor continue (Li et al. 2020, arXiv 1810.05934).

    With this rule the default `schedule` is wsd: under a schedule that decays over the whole trial, values at a rung
    predict the final order badly.
    """

    factor: Annotated[int, Field(ge=2)] = 4
    """reduction factor: the best 1/factor continue; each rung is at factor times the tokens of the one before"""
    mode: Literal["stop", "promote", "synchronous"] = "stop"
    """stop: a trial that is not among the best so far ends at once. promote: it is paused with its checkpoint and
    continues once it is among the best of the trials that have reached the rung (as in the paper). synchronous: every
    trial is paused until its whole cohort has come; which trials continue then depends on no order of arrival"""
    cohort: Annotated[int, Field(ge=2)] | None = None
    """with mode: synchronous, number of consecutive trials that are compared with each other; default: factor²"""
    brackets: Whole = 1
    """number of brackets among which trials are divided; each has its first rung one rung later than the bracket before
    (Hyperband's hedge)"""

    @model_validator(mode="after")
    def _cohort_is_used(self) -> AshaSettings:
        if self.cohort is not None and self.mode != "synchronous":
            message = f"cohort belongs to mode: synchronous, but mode is {self.mode}; set that mode, or remove cohort"
            raise RuleError(("cohort", "mode"), message, "unused")
        return self

    @property
    def cohort_size(self) -> int | None:
        return (self.cohort or self.factor**2) if self.mode == "synchronous" else None

    def rungs(self, max_tokens: int, bracket: int = 0) -> list[int]:
        rungs, rung = [], self.first_rung
        while rung < max_tokens:
            rungs.append(rung)
            rung *= self.factor
        return rungs[bracket:]

    def describe(self, compare: str | None = None) -> list[str]:
        among = "" if compare is None else f" of each {compare}"
        others = "the others end" if self.mode == "stop" else "the others pause"
        among += f" of each cohort of {self.cohort_size}" if self.cohort_size else ""
        brackets = [f"{self.brackets} brackets"] if self.brackets > 1 else []
        return [f"the best 1/{self.factor}{among} continue", others, *brackets]

    def rule(self) -> Asha:
        return SynchronousHalving(self.factor) if self.mode == "synchronous" else Asha(self.factor, self.mode)

    def advice(self, rungs: Sequence[int], trials: int | None = None) -> Iterator[Remark]:
        if self.brackets > len(rungs):
            yield (
                "brackets",
                f"{self.brackets}, but there are {len(rungs)} rungs ({', '.join(map(count, rungs))}); "
                f"{len(rungs)} brackets are used",
            )
        size = self.cohort_size or 0
        if trials is not None and size > trials:
            yield "cohort", f"{size}, but it has at most {trials} trials: each rung waits for all of them"
        if 0 < size < self.factor:
            yield (
                "cohort",
                f"{size}, fewer than factor {self.factor}: one of {size} continues, not one of {self.factor}",
            )
        yield from super().advice(rungs, trials)

    def bracket(self, seed: int, number: int, n_rungs: int, group: str = "") -> int:
        """Draw the bracket with Hyperband's shares, which give each bracket about the same tokens (Li et al. 2018, JMLR
        18): a bracket with s rungs gets a share of trials in proportion to factor^s / (s + 1)."""
        halvings = [n_rungs - b for b in range(min(self.brackets, n_rungs))]
        if len(halvings) < 2:
            return 0
        shares = [self.factor**s / (s + 1) for s in halvings]
        return random.Random(f"bracket {salted(seed, group)} {number}").choices(range(len(shares)), shares)[0]


class Asha(Rule):
    """ASHA's state: the rungs of one study. Raises ValueError for a factor below 2, which would stop no trial."""

    def __init__(self, factor: int, mode: Literal["stop", "promote"] = "stop") -> None:
        super().__init__()
        if factor < 2:
            raise ValueError(f"factor is {factor}; it must be at least 2")
        self.factor, self.mode = factor, mode
        self.pauses = mode == "promote"

    def decide(self, trial: int, at: Rung, value: float) -> Decision:
        values = sorted([value, *self.values(at)])
        n_best = len(values) // self.factor
        cutoff = values[max(1, n_best) - 1]
        refused: Action = "stop" if self.mode == "stop" else "pause"
        continues = value <= cutoff and (n_best > 0 or self.mode == "stop")
        return Decision("continue" if continues else refused, value, cutoff, len(values))

    def promotion(self, last: bool = False, awaited: Awaited = nobody) -> tuple[int, int] | None:
        """The next paused trial to promote, and its rung in tokens: the highest rung first, there the best trial. Or
        None.

        Among groups at the same rung the one with the fewest promotions comes first.
        last: nothing runs and nothing else can start; then the best trial of a rung without promotions is promoted.
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

    def _urgency(self, at: Rung) -> tuple[int, int, int, int, str]:
        promoted = sum(entry.promoted for entry in self.entries[at].values())
        return -at.tokens, at.bracket, at.cohort, promoted, at.group

    def promote(self, trial: int, rung: int, bracket: int = 0, group: str = "", cohort: int = 0) -> Decision:
        """Promote a paused trial. Returns the new decision on it, with the rung's present cutoff and size. Raises
        ValueError where the trial is not paused."""
        at = Rung(group, bracket, rung, cohort)
        values = self.values(at)
        cutoff = values[max(1, len(values) // self.factor) - 1] if values else None
        decision = replace(super().promote(trial, rung, bracket, group, cohort), cutoff=cutoff)
        self.restore(trial, rung, decision, bracket, self.entries[at][trial].exempt, group, cohort)
        return decision


class SynchronousHalving(Asha):
    """The same state in cohorts: at a rung all pause, and the best continue once nobody else can come there."""

    def __init__(self, factor: int) -> None:
        super().__init__(factor, "promote")

    def decide(self, trial: int, at: Rung, value: float) -> Decision:
        return Decision("pause", value, None, len(self.values(at)) + 1)

    def promotion(self, last: bool = False, awaited: Awaited = nobody) -> tuple[int, int] | None:
        """The next paused trial to promote, and its rung in tokens: the highest rung that is decided first, there the
        best trial. Or None."""
        for at in sorted(self.entries, key=self._urgency):
            if (chosen := self._chosen(at)) and self._is_complete(at, awaited):
                return chosen[0], at.tokens
        return None

    def _chosen(self, at: Rung) -> list[int]:
        """The paused trials among the best of those that are at a rung, the best first."""
        entries = self.entries[at]
        ranked = sorted(entries, key=lambda trial: (entries[trial].decision.value, trial))
        best = ranked[: max(1, len(ranked) // self.factor)]
        return [trial for trial in best if entries[trial].decision.action == "pause"]

    def _is_complete(self, at: Rung, awaited: Awaited) -> bool:
        """Whether nobody else can come to a rung: none on its way, and none that a lower rung has yet to promote."""
        below = [rung for rung in self.entries if rung.tokens < at.tokens and rung._replace(tokens=at.tokens) == at]
        return not awaited(at, self.entries[at]) and all(
            not self._chosen(rung) and not awaited(rung, self.entries[rung]) for rung in below
        )
