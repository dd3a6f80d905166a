"""The median stopping rule (Golovin et al. 2017, Google Vizier, section 3.2.2).

Rungs start at first_rung and follow at every `every` tokens. A trial's value at a rung is its best (lowest) value at
any rung so far. The trial is stopped when that is strictly worse than the median of the other trials' values at the
same rung, once at least min_trials others have reached it; a trial that ties with the median continues.

Differences from Vizier and Ray Tune's MedianStoppingRule, and the reasons:

- Both compare a trial's best value with the median of the others' running averages. Validation perplexity falls
  steeply, so an average is dominated by its first values, and a trial that is worse than all others at its rung may
  still be better than their averages: in the simulated study of tests/simulated.py (60 trials, 7 rungs) that rule
  stopped 31 trials at the first rung and none at the others, this one 30, 9 and 7 at the first three. Here best values
  are compared with best values; Optuna's MedianPruner compares a trial's best with the others' values at that step.
- Vizier's median is over completed trials only, and at the beginning there are none; Ray's and this one is over all
  trials that reached the rung, stopped ones included.
- Ray compares trials at every report; here a rung has only values that were measured at that rung, one per trial, all
  finite.

Number of survivors: the first min_trials at a rung continue whatever their values; each later one continues with
probability 1/2 if trials arrive in random order. Of n trials min_trials + (n - min_trials) / 2 pass the first rung: 18
of 32 with min_trials 4. ASHA at factor 4 lets 8.3 pass, so the median rule is the milder one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from search.stopping.rule import Decision, Remark, Rule, Rung, Settings
from trainer.config import Whole
from trainer.lengths import Tokens
from trainer.units import count

_MOST = 1000  # rungs in one trial; each costs an evaluation on eval_tokens and a row in every table


class MedianSettings(Settings):
    """The median stopping rule: a trial ends at a rung where its best value so far is worse than the median of the
    others' best values so far (Golovin et al. 2017, Google Vizier; there the others' running averages).

    With this rule the default `schedule` is wsd: under a schedule that decays over the whole trial, values at a rung
    predict the final order badly.
    """

    every: Tokens | None = None
    """tokens from one rung to the next; default: first_rung"""
    min_trials: Whole = 4
    """number of other trials that must have reached a rung before a trial is stopped there"""

    def rungs(self, max_tokens: int, bracket: int = 0) -> list[int]:
        return list(range(self.first_rung, max_tokens, self.every or self.first_rung))[bracket:]

    def describe(self, compare: str | None = None) -> list[str]:
        among = "" if compare is None else f" of the same {compare}"
        return [f"trials worse than the median of the others{among} end, once {self.min_trials} others have come"]

    def rule(self) -> Median:
        return Median(self.min_trials)

    def problems(self, shortest: int, longest: int) -> Iterator[Remark]:
        yield from super().problems(shortest, longest)
        every = self.every or self.first_rung
        if (n := (longest - self.first_rung - 1) // every + 1) > _MOST:
            key = "first_rung" if self.every is None else "every"
            least = (longest - 1) // _MOST + 1
            yield key, f"{count(every)} tokens make {n:,} rungs, at most {_MOST:,} are compared; use at least {least:,}"

    def advice(self, rungs: Sequence[int], trials: int | None = None) -> Iterator[Remark]:
        if trials is not None and trials <= self.min_trials:
            yield (
                "min_trials",
                f"{self.min_trials}, but each is compared with at most {trials - 1} others: none is stopped",
            )
        yield from super().advice(rungs, trials)


class Median(Rule):
    """The median rule's state: the rungs of one study. Raises ValueError for min_trials below 1."""

    def __init__(self, min_trials: int) -> None:
        super().__init__()
        if min_trials < 1:
            raise ValueError(f"min_trials is {min_trials}; it must be at least 1")
        self.min_trials = min_trials

    def decide(self, trial: int, at: Rung, value: float) -> Decision:
        passed = [entries for rung, entries in self.entries.items() if rung.tokens < at.tokens and trial in entries]
        best = min([value, *(entries[trial].decision.value for entries in passed)])
        others = self.values(at)
        cutoff = median(others) if len(others) >= self.min_trials else None
        stops = cutoff is not None and best > cutoff
        return Decision("stop" if stops else "continue", best, cutoff, len(others) + 1)


def median(ascending: Sequence[float]) -> float:
    """The median of values in ascending order; of an even number the mean of the two in the middle.

    >>> median([1.0, 2.0, 9.0]), median([1.0, 2.0, 4.0, 9.0])
    (2.0, 3.0)
    """
    low, high = ascending[(len(ascending) - 1) // 2], ascending[len(ascending) // 2]
    return low + (high - low) / 2
