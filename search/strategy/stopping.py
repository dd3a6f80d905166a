"""Rebuild a study's stopping rule from the decisions in its journal; which trials its rungs wait for.

The rule itself keeps no file. A study that continues creates a new rule from its spec and restores every recorded
decision in it:

    rule = rebuild(spec, read_study(folder))
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from search.spec.study_spec import StudySpec
from search.stopping.rule import Awaited, Decision, Rule, Rung
from search.study.journal import INACTIVE
from search.study.study import Study, Trial


def rebuild(spec: StudySpec, study: Study) -> Rule | None:
    """The stopping rule with all decisions of the study restored; None where the spec has no rule.

    spec: the spec in the study's header, whose settings the recorded decisions followed.
    study: read from the journal; its trials carry their decisions, bracket, exemption and group.
    The rule continues to decide as it would have without the interruption.
    """
    if spec.stopping is None:
        return None
    rule = spec.stopping.rule()
    for trial in study.trials.values():
        for record in trial.decisions:
            decision = Decision(record["action"], record["value"], record["cutoff"], record["of"])
            rung, treatment = record["rung"], (trial.bracket, trial.exempt, trial.group, trial.cohort)
            rule.restore(trial.number, rung, decision, *treatment)
    return rule


def next_cohort(study: Study, size: int, bracket: int, group: str) -> int:
    """The cohort of the next trial of a bracket and a group: the newest one, or a new one where that has `size` trials
    or has been decided (at the end of a budget, which was raised since)."""
    trials = [trial for trial in study.searched if (trial.bracket, trial.group) == (bracket, group)]
    newest = max((trial.cohort for trial in trials), default=0)
    members = [trial for trial in trials if trial.cohort == newest]
    decided = any(decision["action"] == "promote" for trial in members for decision in trial.decisions)
    return newest + 1 if decided or len(members) >= size else newest


def awaited(study: Study, size: int, rungs: Callable[[Trial], list[int]], more: bool) -> Awaited:
    """Whether a trial may still come to a rung, for `Rule.promotion`.

    size: of a cohort; rungs: of a trial; more: whether new trials may begin.
    """
    cohorts: dict[tuple[str, int, int], list[Trial]] = {}
    for trial in study.searched:
        cohorts.setdefault((trial.group, trial.bracket, trial.cohort), []).append(trial)

    def awaits(at: Rung, there: Collection[int]) -> bool:
        if more and next_cohort(study, size, at.bracket, at.group) == at.cohort:
            return True
        going = (t for t in cohorts[at.group, at.bracket, at.cohort] if t.status not in INACTIVE)
        return any(trial.number not in there and at.tokens in rungs(trial) for trial in going)

    return awaits
