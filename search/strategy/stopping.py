"""Rebuild a study's stopping rule from the decisions in its journal.

The rule itself keeps no file. A study that continues creates a new rule from its spec and restores every recorded
decision in it:

    rule = rebuild(spec, read_study(folder))
"""

from __future__ import annotations

from search.spec.study_spec import StudySpec
from search.stopping.rule import Decision, Rule
from search.study.study import Study


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
            rule.restore(trial.number, record["rung"], decision, trial.bracket, trial.exempt, trial.group)
    return rule
