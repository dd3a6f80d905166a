"""The Ray Tune searcher: hands out interrupted trials first, then new points, as long as the budget lasts.

Tune's own snapshots hold nothing of it: the journal is what a study goes on from.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from search.sampler import Sampler
from search.space import configure, readable
from search.spec import StudySpec
from search.study import Ledger, spent
from trainer.config import TrainConfig


class LedgerSearcher(Searcher):
    """length: tokens that a config trains on (its max_tokens, epochs counted out).

    out_dir: where a trial writes its checkpoints.
    """

    def __init__(
        self,
        ledger: Ledger,
        spec: StudySpec,
        base: TrainConfig,
        length: Callable[[TrainConfig], int],
        out_dir: Callable[[int], Path],
    ) -> None:
        super().__init__()
        self._ledger, self._spec, self._base = ledger, spec, base
        self._length, self._out_dir = length, out_dir
        self._sampler = Sampler(spec)
        self._unfinished = ledger.study.unfinished()

    def suggest(self, trial_id: str) -> dict[str, Any] | str:
        """The next trial's config for the trainable, or Searcher.FINISHED."""
        study = self._ledger.study
        if self._unfinished:  # begun, and so paid for: whatever the budget says now
            return self._hand_out(self._unfinished.pop(0))
        number = max(study.trials, default=-1) + 1
        point = None if spent(study, self._spec.budget, time.time()) else self._sampler.ask(number, study)
        if point is None:
            return str(Searcher.FINISHED)
        config = configure(self._base, self._spec.space, point)
        facts = {"point": point, "config": config.model_dump(mode="json"), "name": readable(point)}
        self._ledger.write("point", trial=number, **facts, sampler=self._spec.sampler)
        return self._hand_out(number)

    def _hand_out(self, number: int) -> dict[str, Any]:
        trial = self._ledger.study.trials[number]
        length = self._length(TrainConfig.model_validate(trial.config))
        return {
            "trial": number,
            "config": trial.config,
            "resume": trial.checkpoint,
            "out_dir": str(self._out_dir(number)),
            "rungs": self._spec.rungs(length),
            "objective": self._spec.objective,
        }

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: the scheduler has written it, and the sampler reads the study."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""
