"""What the driver watches while a study runs, as Ray itself waits for ever in each of these cases.

`Watch`, between two events of Ray Tune: has the user asked to stop, does a trial hang, is there still a machine that
can give a trial what it needs.
`beating`, from a thread: does Ray itself live. When its head or this machine's daemon dies, Ray's client waits for
ever or ends the process without a word; so the thread tries their ports.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ray.tune import Stopper

from search.run.resources import Share, has, slots
from search.run.scheduler import LedgerScheduler
from search.study.machine import Node
from trainer.units import duration

_PATIENCE = 45.0  # seconds without a machine before it is said: one that was lost may be replaced
_WAIT = 30.0  # seconds without a trial in a cluster that others fill before it is said; a worker may start slowly
_SAID_EVERY = 3600.0  # seconds; before that again after twice the time
_LONGEST_WAIT = 24 * 3600.0  # seconds in a cluster that others fill; a job that waits for ever is forgotten
_EVERY = 3.0  # seconds between looks at the cluster
_BEAT = 2.0  # seconds between tries of Ray's ports
_MISSES = 3  # tries in a row without an answer: a machine under load may miss one


class Stopped(BaseException):
    """The study stops here. No Exception: Tune would catch it."""


class Watch(Stopper):
    """Tune asks it, often, whether all trials should stop: that is where it looks.

    asked: reasons to stop, from outside. nodes: the cluster as it is. lacking: what is free and who has the rest, where
    that is too little for a trial; "" where there is room. say: takes a line for people.
    """

    def __init__(
        self,
        scheduler: LedgerScheduler,
        each: Share,
        asked: list[str],
        nodes: Callable[[], list[Node]],
        lacking: Callable[[Share], str],
        say: Callable[[str], None],
    ) -> None:
        self._scheduler, self.each, self._asked, self._nodes = scheduler, each, asked, nodes
        self._lacking, self._say, self._say_after = lacking, say, _WAIT
        self._looked = self._supplied = self._trained = time.monotonic()

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        """Raises Stopped when there is a reason, having added to `asked` what it found itself.

        No record is half written then: it is between two events. Tune's own way of stopping waits for each trial's
        next report, then ten seconds more.
        """
        self._scheduler.end_silent()
        if self._scheduler.hopeless:
            self._asked.append(self._scheduler.hopeless)
        now = time.monotonic()
        if now - self._looked > _EVERY:
            self._looked = now
            self._look(now)
        if self._asked:
            raise Stopped
        return False

    def _look(self, now: float) -> None:
        wanted = f"cpus: {self.each.cpus:g} and gpus: {self.each.gpus:g}"
        if not self._scheduler.idle:
            self._supplied = self._trained = now
            self._say_after = _WAIT
        elif slots(self.each, nodes := self._nodes()):
            self._supplied = now
            self._wait(now - self._trained, wanted)
        elif now - self._supplied > _PATIENCE:
            self._asked.append(f"no machine is left that can give a trial {wanted}; there is {has(nodes)}")

    def _wait(self, waited: float, wanted: str) -> None:
        """Say that there is no room, at first soon and then more seldom; after a day it is a reason to stop."""
        if waited <= self._say_after or not (lacking := self._lacking(self.each)):
            return
        why = f"no room for a trial of {wanted} in {duration(waited)}: {lacking}"
        if waited > _LONGEST_WAIT:
            self._asked.append(why)
            return
        self._say(f"{why}; waiting, at most {duration(_LONGEST_WAIT)} in all")
        self._say_after = waited + min(waited, _SAID_EVERY)

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune's snapshot, which nobody reads, holds its stopper


@contextmanager
def beating(gone: Callable[[str], None]) -> Iterator[Callable[[], bool]]:
    """Watch the Ray that we are connected to for as long as the block runs; `gone` is called at most once.

    Hands out a function that says whether Ray answers now.
    """
    over, parts = threading.Event(), _parts()
    thread = threading.Thread(target=_watch, args=(parts, gone, over), name="ray-pulse", daemon=True)
    thread.start()
    try:
        yield lambda: all(_answers(*part) for part in parts.values())
    finally:
        over.set()
        thread.join(_BEAT + _MISSES)


def _parts() -> dict[str, tuple[str, int]]:
    """What must answer, by its name for people: the head, and the daemon of the node that we are on."""
    import ray

    context = ray.get_runtime_context()
    host, _, port = context.gcs_address.rpartition(":")
    parts = {"Ray's head": (host, int(port))}
    for node in ray.nodes():
        if node["NodeID"] == context.get_node_id():
            parts["Ray's daemon on this machine"] = (node["NodeManagerAddress"], node["NodeManagerPort"])
    return parts


def _watch(parts: dict[str, tuple[str, int]], gone: Callable[[str], None], over: threading.Event) -> None:
    missed = dict.fromkeys(parts, 0)
    while not over.wait(_BEAT):
        for name, (host, port) in parts.items():
            missed[name] = 0 if _answers(host, port) else missed[name] + 1
            if missed[name] == _MISSES and not over.is_set():
                gone(f"{name} ({host}:{port}) is gone")
                return


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=_BEAT).close()
    except OSError:
        return False
    return True
