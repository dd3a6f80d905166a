"""A search as Ray would drive it, in simulated time: real searcher, stopping rule and journal; nothing is trained.

Each stretch of a trial, from rung to rung, takes as long as `pace` says; values at rungs and at the end are a function
of the trial's point. The driver may be killed between any two events and then resumes from the journal.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from search.run.scheduler import REFUSED, decide, settle
from search.run.searcher import LedgerSearcher
from search.spec.study_spec import StudySpec
from search.strategy.stopping import rebuild
from search.study import header
from search.study.ledger import Ledger
from search.study.study import Study, read_study
from tests import journals
from trainer.config import TrainConfig

BASE = TrainConfig(max_tokens=journals.LENGTH)
DATA = {"corpus": "stories", "tokenizer": "char", "hash": "abc123", "floor": None}


def usual(trial: int, tokens: int) -> float:
    """Seconds for so many tokens."""
    return tokens / 1000


def bowl(config: dict[str, Any], tokens: int) -> float:
    """A perplexity: best at learning rate 2e-3, falling with tokens; rungs do not quite predict the end."""
    away = abs(math.log10(config["learning_rate"]) + 2.7)
    return math.exp(1 + away + 0.3 * math.sin(7 * away) * (tokens < journals.LENGTH) + 500 / tokens)


@dataclass
class Search:
    """workers: trials at once; pace(trial, tokens): seconds of a stretch; value(config, tokens): a perplexity, not
    finite where the trial diverges; fails: trials that fail instead of their first report; kills: numbers of the events
    before which the driver is killed.

    After `run` seconds is the length of the search, busy the seconds of all workers together.
    """

    folder: Path
    spec: StudySpec
    workers: int
    pace: Callable[[int, int], float] = usual
    value: Callable[[dict[str, Any], int], float] = bowl
    fails: Collection[int] = ()
    kills: Collection[int] = ()
    seconds: float = 0.0
    busy: float = 0.0
    _events: list[tuple[float, int, list[int]]] = field(default_factory=list)

    def run(self) -> Study:
        """Raises AssertionError where nothing runs and the searcher still waits."""
        self._begin()
        n_events = 0
        while self._fill():
            n_events += 1
            if n_events in self.kills:
                self._kill()
                continue
            self.seconds, number, ahead = heapq.heappop(self._events)
            self._arrive(number, ahead)
        self._ledger.close()
        return read_study(self.folder)

    def _begin(self) -> None:
        self._ledger = Ledger(self.folder)
        self._ledger.write("study", **header.fields(self.spec, BASE, DATA, self.spec.rungs(journals.LENGTH)))
        for number in self._ledger.study.unfinished():
            if self._ledger.study.trials[number].status == "running":
                self._ledger.write("status", trial=number, status="interrupted", cause="its driver went away")
        self._rule = rebuild(self.spec, self._ledger.study)
        settle(self._ledger, self.spec, self._rule)
        length: Callable[[TrainConfig], int] = lambda config: journals.LENGTH
        out_dir: Callable[[int], Path] = lambda number: self.folder / str(number)
        self._searcher = LedgerSearcher(self._ledger, self.spec, BASE, self._rule, length, out_dir)

    def _kill(self) -> None:
        self._ledger.close()
        self._events = []
        self._begin()

    def _fill(self) -> bool:
        """Hand out trials to idle workers; whether any trial runs."""
        job: Any = None
        while len(self._events) < self.workers and isinstance(job := self._searcher.suggest("x"), dict):
            number, trial = job["trial"], self._ledger.study.trials[job["trial"]]
            begin = trial.tokens_at(job["resume"])
            self._ledger.write("status", trial=number, status="running", tokens=begin)
            self._push(number, begin, [tokens for tokens in (*job["rungs"], journals.LENGTH) if tokens > begin])
        assert self._events or job == Searcher.FINISHED, "nothing runs, and the searcher waits"
        return bool(self._events)

    def _push(self, number: int, begin: int, ahead: list[int]) -> None:
        lasts = self.pace(number, ahead[0] - begin)
        self.busy += lasts
        heapq.heappush(self._events, (self.seconds + lasts, number, ahead))

    def _arrive(self, number: int, ahead: list[int]) -> None:
        tokens, config = ahead[0], self._ledger.study.trials[number].config
        if number in self.fails:
            self._ledger.write("status", trial=number, status="failed", cause="a test")
            return
        final, value = tokens == journals.LENGTH, self.value(config, tokens)
        facts = {"step": tokens, "tokens": tokens, "rung": None if final else tokens, "final": final}
        checkpoint = f"{number}/{tokens}"
        self._ledger.write("report", trial=number, **facts, metrics=journals.metrics(value), checkpoint=checkpoint)
        if final or not math.isfinite(value):
            self._ledger.write("status", trial=number, status="completed" if math.isfinite(value) else "diverged")
            return
        assert self._rule is not None
        action = decide(self._ledger, self._rule, number, tokens, value)
        if action in REFUSED:
            self._ledger.write("status", trial=number, status=REFUSED[action], rung=tokens)
        else:
            self._push(number, tokens, ahead[1:])


def outcome(study: Study) -> dict[int, Any]:
    """Of each trial of the search its point, and how far it came; of each finalist its runs."""
    return {
        trial.number: (trial.point, trial.status, trial.rung, trial.tokens, len(study.again(trial.number)))
        for trial in study.searched
    }
