"""What a careful person would say about a search before it runs. It runs all the same."""

from __future__ import annotations

from search.spec.points import fields
from search.spec.study_spec import StudySpec
from search.strategy.groups import values
from trainer.config import TrainConfig
from trainer.units import count

_DECAYS = ("cosine", "linear")  # from the beginning to the end of a trial


def advice(spec: StudySpec, base: TrainConfig, length: int) -> list[str]:
    """One line each, without a full stop. length: tokens of a whole trial."""
    found = []
    known, trials = values(spec), spec.budget.trials
    if trials is not None and trials < len(known):
        found.append(
            f"budget.trials: {trials}, but {spec.compare} has {len(known)} values to compare: "
            f"{len(known) - trials} of them get no trial"
        )
    if spec.scheduler is None:
        return found
    asha = spec.scheduler.asha
    rungs = spec.rungs(length)
    searched = {field for name, parameter in spec.space.items() for field in fields(name, parameter)}
    if base.schedule in _DECAYS and "schedule" not in searched:
        found.append(
            f"schedule: {base.schedule} decays over the whole trial, so values at rungs say little about the end; "
            "wsd compares trials at the same rate (set: {schedule: wsd})"
        )
    if asha.brackets > len(rungs):
        found.append(
            f"scheduler.asha.brackets: {asha.brackets}, but there are {len(rungs)} rungs "
            f"({', '.join(map(count, rungs))}); {len(rungs)} brackets are used"
        )
    if not asha.exempt:
        found.append("scheduler.asha.exempt: 0: the study cannot say how well its rungs predicted the final order")
    return found
