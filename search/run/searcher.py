"""The Ray Tune searcher: hands out interrupted trials first, then promoted ones, then new points, within the budget.

Tune's own snapshots hold nothing of it: the journal is what a study continues from.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from search.run.scheduler import write_decision
from search.spec.points import Point
from search.spec.space import configure, readable
from search.spec.study_spec import StudySpec
from search.stopping.rule import Awaited, Rule, nobody
from search.strategy.finalists import fresh_seed, pending
from search.strategy.groups import group_of
from search.strategy.sampler import Sampler
from search.strategy.stopping import awaited, next_cohort
from search.study import journal
from search.study.ledger import Ledger
from search.study.study import Trial, spent, used_up
from trainer.config import TrainConfig, replace
from trainer.keys import memory_keys


class LedgerSearcher(Searcher):
    """rule: shared with the scheduler, whose paused trials are promoted here.

    length: tokens that a config trains on (its max_tokens, epochs counted out).
    out_dir: where a trial writes its checkpoints.
    """

    def __init__(
        self,
        ledger: Ledger,
        spec: StudySpec,
        base: TrainConfig,
        rule: Rule | None,
        length: Callable[[TrainConfig], int],
        out_dir: Callable[[int], Path],
    ) -> None:
        super().__init__()
        self._ledger, self._spec, self._base, self._rule = ledger, spec, base, rule
        self._length, self._out_dir = length, out_dir
        self._sampler = Sampler(spec, base)
        self._unfinished = ledger.study.unfinished()

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's config for the trainable; None: none yet; Searcher.FINISHED: no more."""
        if self._unfinished:  # begun, and so paid for: whatever the budget says now
            return self._hand_out(self._unfinished.pop(0))
        number = self._promoted(more=not spent(self._ledger.study, self._spec.budget, journal.now()))
        if number is None:
            number = self._new()
        if number is None:
            number = self._promoted()  # no trial can begin any more, so that the last cohort is complete
        study = self._ledger.study
        if number is None and any(study.trials[left].of is None for left in study.unfinished()):
            # who still runs may yet promote another, or be among the finalists
            return None if self._promotes or self._spec.finalists else str(Searcher.FINISHED)
        if number is None:
            number = self._promoted(last=True)
        if number is None:
            number = self._again()
        if number is None and study.unfinished():
            return None  # a round of finalists is under way
        return str(Searcher.FINISHED) if number is None else self._hand_out(number)

    @property
    def _promotes(self) -> bool:
        return self._rule is not None and self._rule.pauses

    def _promoted(self, more: bool = False, last: bool = False) -> int | None:
        """A paused trial that continues. more: whether new trials may begin; last: see `Rule.promotion`."""
        study = self._ledger.study
        if self._rule is None or used_up(study, self._spec.budget, journal.now()):
            return None
        promotion = self._rule.promotion(last, self._awaited(more))
        if promotion is None:
            return None
        number, rung = promotion
        trial = study.trials[number]
        decision = self._rule.promote(number, rung, trial.bracket, trial.group, trial.cohort)
        write_decision(self._ledger, number, rung, decision)
        return number

    def _awaited(self, more: bool) -> Awaited:
        settings = self._spec.stopping
        if settings is None or settings.cohort_size is None:
            return nobody
        return awaited(self._ledger.study, settings.cohort_size, self._rungs, more)

    def _new(self) -> int | None:
        """A trial with a new point, as long as the budget lasts and the sampler has one."""
        study, spec = self._ledger.study, self._spec
        place = len(study.searched)  # what points depend on; its number, but for finalists that came before
        point = None if spent(study, spec.budget, journal.now()) else self._sampler.ask(place, study)
        if point is None:
            return None
        config = configure(self._base, spec.space, point)
        group = group_of(spec, point)
        # whether a trial is exempt, and its bracket, go by its place among its own kind
        before = place if not group else sum(trial.group == group for trial in study.searched)
        treatment = {**self._treatment(before, config, group), **({"group": group} if group else {})}
        return self._write_point(point, config, readable(point), sampler=spec.sampler, **treatment)

    def _again(self) -> int | None:
        """A finalist's run with a fresh seed; all other trials are over."""
        waiting = pending(self._ledger.study, self._spec)
        if not waiting:
            return None
        number, round_ = waiting[0]
        trial = self._ledger.study.trials[number]
        config = replace(TrainConfig.model_validate(trial.config), seed=fresh_seed(self._spec, round_))
        name = f"{trial.name} (trial {number}, seed {config.seed})"
        groups = {"group": trial.group} if trial.group else {}
        return self._write_point(trial.point, config, name, of=number, round=round_, **groups)

    def _write_point(self, point: Point, config: TrainConfig, name: str, **more: Any) -> int:
        number = max(self._ledger.study.trials, default=-1) + 1
        facts = {"point": point, "config": config.model_dump(mode="json"), "name": name}
        self._ledger.write("point", trial=number, **facts, **more)
        return number

    def _treatment(self, number: int, config: TrainConfig, group: str) -> dict[str, Any]:
        """How the stopping rule will treat a trial. number: its place in its group."""
        settings, seed = self._spec.stopping, self._spec.seed
        if settings is None:
            return {}
        n_rungs = len(self._spec.rungs(self._length(config)))
        bracket = settings.bracket(seed, number, n_rungs, group)
        treatment = {"bracket": bracket, "exempt": settings.exempts(seed, number, group)}
        if settings.cohort_size is not None:
            treatment["cohort"] = next_cohort(self._ledger.study, settings.cohort_size, bracket, group)
        return treatment

    def _rungs(self, trial: Trial) -> list[int]:
        return self._spec.rungs(self._length(TrainConfig.model_validate(trial.config)), trial.bracket)

    def _hand_out(self, number: int) -> dict[str, Any]:
        trial = self._ledger.study.trials[number]
        return {
            "trial": number,
            "config": trial.config,
            "resume": trial.checkpoint,
            "out_dir": str(self._out_dir(number)),
            "rungs": [] if trial.of is not None else self._rungs(trial),
            "objective": self._spec.objective,
            "micro_batch": self._fits(trial),
        }

    def _fits(self, trial: Trial) -> int | None:
        """Sequences in one pass that are known to fit a trial of this shape; None as long as memory has sufficed."""
        wanted = _shape(trial)
        sizes = [
            other.micro_batch
            for other in self._ledger.study.trials.values()
            if other.micro_batch and _shape(other) == wanted
        ]
        return min(sizes, default=None)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler has written it, and the sampler reads the study."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


def _shape(trial: Trial) -> list[Any]:
    """The values that memory depends on; a key that the trial's release did not have has its default."""
    fields = TrainConfig.model_fields
    return [trial.config.get(key, fields[key].default) for key in memory_keys(TrainConfig)]
