"""What the driver looks at between two events of Ray Tune: has the user had enough, does a trial hang, is there still
a machine that can give a trial what it needs. Ray itself waits for ever in each of these.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray.tune import Stopper

from search.run.resources import Node, Share, has, slots
from search.run.scheduler import LedgerScheduler

_PATIENCE = 45.0  # seconds without a machine before it is said: one that was lost may be replaced
_WAIT = 30.0  # seconds without a trial in a cluster that others fill before it is said; a worker may start slowly
_EVERY = 3.0  # seconds between looks at the cluster


class Stopped(BaseException):
    """The study stops here. No Exception: Tune would catch it."""


class Watch(Stopper):
    """Tune asks it, often, whether all trials should stop: that is where it looks.

    asked: reasons to stop, from outside. nodes: the cluster as it is. taken: whether others have it all at the moment,
    which is no reason to stop. say: takes a line for people.
    """

    def __init__(
        self,
        scheduler: LedgerScheduler,
        each: Share,
        asked: list[str],
        nodes: Callable[[], list[Node]],
        taken: Callable[[Share], bool],
        say: Callable[[str], None],
    ) -> None:
        self._scheduler, self.each, self._asked, self._nodes = scheduler, each, asked, nodes
        self._taken, self._say, self._said = taken, say, False
        self._looked = self._supplied = self._trained = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Raises Stopped when there is a reason, having added to `asked` what it found itself.

        No record is half written then: it is between two events. Tune's own way of stopping waits for each trial's
        next report, then ten seconds more.
        """
        self._scheduler.end_silent()
        if self._scheduler.no_space:
            self._asked.append(self._scheduler.no_space)
        now = time.monotonic()
        if now - self._looked > _EVERY:
            self._looked = now
            self._look(now)
        if self._asked:
            raise Stopped
        return False

    def _look(self, now: float) -> None:
        if not self._scheduler.idle:
            self._supplied = self._trained = now
            self._said = False
        elif slots(self.each, nodes := self._nodes()):
            self._supplied = now
            if not self._said and now - self._trained > _WAIT and self._taken(self.each):
                self._said = True
                self._say("waiting for room: others have the cluster's cores or GPUs (nanosweep jobs lists them)")
        elif now - self._supplied > _PATIENCE:
            wanted = f"cpus: {self.each.cpus:g} and gpus: {self.each.gpus:g}"
            self._asked.append(f"no machine is left that can give a trial {wanted}; there is {has(nodes)}")

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune's snapshot, which nobody reads, holds its stopper
