"""The interface of stopping rules: `Settings` (the keys in a spec) and `Rule` (the decisions). No Ray, clock or files.

A new rule is one file next to this one, with a subclass of each, and one field of `Scheduler` in registry.py. An
example of a whole file:

    \"\"\"A trial ends at a rung where it is worse than the best by more than a tolerance.\"\"\"

    from __future__ import annotations

    from typing import Annotated

    from pydantic import Field

    from search.stopping.rule import Decision, Rule, Rung, Settings


    class ThresholdSettings(Settings):
        \"\"\"A trial ends at the only rung where its value exceeds the best there by more than a tolerance.\"\"\"

        tolerance: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
        \"\"\"of the objective's unit\"\"\"

        def rungs(self, max_tokens: int, bracket: int = 0) -> list[int]:
            return [self.first_rung] if self.first_rung < max_tokens else []

        def describe(self, compare: str | None = None) -> list[str]:
            return [f"trials within {self.tolerance:g} of the best continue, the others end"]

        def rule(self) -> Rule:
            return Threshold(self.tolerance)


    class Threshold(Rule):
        def __init__(self, tolerance: float) -> None:
            super().__init__()
            self.tolerance = tolerance

        def decide(self, trial: int, at: Rung, value: float) -> Decision:
            values = self.values(at)
            cutoff = min([value, *values]) + self.tolerance
            return Decision("continue" if value <= cutoff else "stop", value, cutoff, len(values) + 1)

Everything else is derived from it: the name in YAML, error messages and JSON Schema (python -m search.spec.schema >
search/specs/spec.schema.json), `plan`, notes before a run, resuming, exempt trials, leaderboard and report.
tests/test_search_stopping.py tests every registered rule against the contracts in this file.
"""

from __future__ import annotations

import math
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, model_validator

from trainer.lengths import Tokens
from trainer.units import count

Action = Literal["continue", "stop", "pause", "promote"]
Remark = tuple[str, str]  # a key of the settings, and a message on its value
# the first 3 x 6 trials have 3 exempt ones, whatever the share, so that a short study can rate its rungs too
_FIRST, _EACH = 3, 6


class Settings(BaseModel, ABC):
    """The settings of a stopping rule in a spec. Every field but first_rung has a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    compares: ClassVar[bool] = True
    """whether the rule compares trials before their end. The default `schedule` is then wsd: under a schedule that
    decays over the whole trial, values at a rung predict the final order badly"""

    first_rung: Tokens = Field(examples=["1M"])
    """tokens at which trials are first compared; no trial is stopped earlier (Ray Tune's grace period)"""
    exempt: Annotated[float, Field(ge=0, le=1)] = 0.05
    """share of trials, at least 3 of the first 18, that are never stopped; the study uses them to report how well each
    rung predicted the final order. With 0 there are none and no such report"""

    @model_validator(mode="before")
    @classmethod
    def _mapping(cls, value: Any) -> Any:
        if not isinstance(value, (dict, cls)):
            raise ValueError(f"expected {{first_rung: 1M}}, got {value!r}")
        return value

    @property
    def cohort_size(self) -> int | None:
        """Number of trials that are compared with one another only, consecutive ones of a group and bracket; None where
        a trial is compared with all that come to its rung."""
        return None

    @abstractmethod
    def rungs(self, max_tokens: int, bracket: int = 0) -> list[int]:
        """Token counts at which a trial of max_tokens is compared: ascending, from first_rung, all below max_tokens."""

    @abstractmethod
    def describe(self, compare: str | None = None) -> list[str]:
        """Short phrases for `plan` on what happens at a rung. compare: the spec's `compare`, the parameter within whose
        values trials are compared."""

    @abstractmethod
    def rule(self) -> Rule:
        """Create the rule with these settings and empty rungs."""

    def problems(self, shortest: int, longest: int) -> Iterator[Remark]:
        """Errors in the settings for trials of `shortest` to `longest` tokens; any refuses the study."""
        if self.first_rung >= shortest:
            relation = "is" if self.first_rung == shortest else "exceeds"
            yield (
                "first_rung",
                f"{count(self.first_rung)} tokens {relation} a trial's max_tokens ({count(shortest)}): no trial could "
                "be stopped early; lower first_rung or raise max_tokens",
            )

    def advice(self, rungs: Sequence[int], trials: int | None = None) -> Iterator[Remark]:
        """Warnings on the settings, printed before the study runs. rungs: of the longest trial in bracket 0; trials:
        the budget's number of trials, per value where the spec compares values."""
        if not self.exempt:
            yield "exempt", "0: the study cannot say how well its rungs predicted the final order"

    def bracket(self, seed: int, number: int, n_rungs: int, group: str = "") -> int:
        """The bracket of a trial. number: its index in its group; n_rungs: rungs of bracket 0. A rule without brackets
        has only bracket 0."""
        return 0

    def exempts(self, seed: int, number: int, group: str = "") -> bool:
        """Whether a trial is never stopped: one of each 1/exempt trials, and three of the first 18.

        A function of the study's seed and the trial's index in its group (number), the same after a resume.
        """
        if not self.exempt:
            return False
        seeded = salted(seed, group)
        period = max(1, round(1 / self.exempt))
        each = min(period, _EACH)
        if number < _FIRST * each:
            return number % each == _drawn(seeded, number // each, each)
        return number >= _FIRST * period and number % period == _drawn(seeded, number // period, period)


def salted(seed: int, group: str) -> str:
    """The seed of a group, as text: each group has its own."""
    return f"{seed} {group}" if group else str(seed)


def _drawn(seed: str, block: int, size: int) -> int:
    return random.Random(f"exempt {seed} {block} {size}").randrange(size)


@dataclass(frozen=True)
class Decision:
    """The rule's decision on a trial at a rung.

    value: the value that was compared, lower is better; cutoff: the largest value that continues, None where every
    value does; of: number of values in the rung, this one included.
    """

    action: Action
    value: float
    cutoff: float | None
    of: int


@dataclass(frozen=True)
class Entry:
    """A trial's entry in a rung."""

    decision: Decision
    exempt: bool

    @property
    def promoted(self) -> bool:
        """Whether the trial continued because of its value, not because it is exempt."""
        return self.decision.action in ("continue", "promote") and not self.exempt


class Rung(NamedTuple):
    """The key of a rung; only trials of the same group, bracket and cohort are compared.

    tokens: nominal token count; group: the value of the spec's `compare` parameter as text, "" without `compare`;
    cohort: 0 where the rule has no cohorts.
    """

    group: str
    bracket: int
    tokens: int
    cohort: int = 0


# whether a trial that has not come to a rung yet may do so without another promotion, apart from those that are there
Awaited = Callable[[Rung, Collection[int]], bool]


def nobody(at: Rung, there: Collection[int]) -> bool:
    """The `Awaited` of a study in which nothing runs and no trial can begin."""
    return False


class Rule(ABC):
    """The rungs of one study with their entries; a subclass implements `decide` for the next value.

    A decision depends on the values recorded in rungs, not on their order, so that `restore` may rebuild the state from
    a journal in any order. A rung has only values that were measured at that rung, one per trial.
    """

    pauses = False  # whether `decide` may return pause; the study then promotes paused trials

    def __init__(self) -> None:
        self.entries: dict[Rung, dict[int, Entry]] = {}

    @abstractmethod
    def decide(self, trial: int, at: Rung, value: float) -> Decision:
        """Decide on a trial that is new in a rung: continue, stop, or pause. value: finite."""

    def values(self, at: Rung) -> list[float]:
        """The values recorded in a rung, the best first."""
        return sorted(entry.decision.value for entry in self.entries.get(at, {}).values())

    def report(
        self,
        trial: int,
        rung: int,
        value: float,
        bracket: int = 0,
        exempt: bool = False,
        group: str = "",
        cohort: int = 0,
    ) -> Decision:
        """Record a trial's value at a rung and decide.

        A trial that reaches a rung again (after a lost worker it resumes from an earlier checkpoint) gets the same
        decision as before. An exempt trial continues; its value counts like any other.
        Raises ValueError for a value that is not finite: such a trial has diverged.
        """
        if not math.isfinite(value):
            raise ValueError(f"trial {trial} reports {value} at rung {rung}; a diverged trial is in no rung")
        at = Rung(group, bracket, rung, cohort)
        if trial not in self.entries.get(at, {}):
            decision = self.decide(trial, at, value)
            if exempt:
                decision = replace(decision, action="continue")
            self.entries.setdefault(at, {})[trial] = Entry(decision, exempt)
        return self.entries[at][trial].decision

    def promotion(self, last: bool = False, awaited: Awaited = nobody) -> tuple[int, int] | None:
        """The next paused trial to promote, and its rung in tokens; or None.

        last: nothing runs and nothing else can start. awaited: who may still come, for rules that wait for them.
        """
        return None

    def promote(self, trial: int, rung: int, bracket: int = 0, group: str = "", cohort: int = 0) -> Decision:
        """Promote a paused trial. Returns the new decision on it. Raises ValueError where it is not paused."""
        at = Rung(group, bracket, rung, cohort)
        entry = self.entries.get(at, {}).get(trial)
        if entry is None or entry.decision.action != "pause":
            raise ValueError(f"trial {trial} is not paused at rung {rung}")
        decision = replace(entry.decision, action="promote", of=len(self.entries[at]))
        self.entries[at][trial] = replace(entry, decision=decision)
        return decision

    def restore(
        self,
        trial: int,
        rung: int,
        decision: Decision,
        bracket: int = 0,
        exempt: bool = False,
        group: str = "",
        cohort: int = 0,
    ) -> None:
        """Restore a decision from the journal; of several on the same trial at the same rung the last one holds."""
        self.entries.setdefault(Rung(group, bracket, rung, cohort), {})[trial] = Entry(decision, exempt)
