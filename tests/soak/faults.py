"""What is done to a running study, and when: a seeded schedule, paced by the journal and not by the clock."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.soak.follower import Follower
from tests.soak.nodes import Nodes
from tests.soak.processes import Driver, Server, trainers, until

# of twenty. hang: a node that stops answering while its worker trains on; start: a driver killed twice, the second
# time while it begins
KINDS = {"worker": 6, "node": 3, "hang": 2, "driver": 3, "start": 2, "ctrl-c": 2, "server": 2}
STANDSTILL = 120.0  # seconds without a record: the driver waits for something that will not come
GOODBYE = 100.0  # seconds that a driver may take to end after Ctrl-C
MOST_BREAKDOWNS = 5


@dataclass(frozen=True)
class Fault:
    """after: reports since the fault before; repair: reports until what is gone (node, server) is there again."""

    kind: str
    after: int
    repair: int


def schedule(n: int, trials: int, seed: int) -> list[Fault]:
    """n faults, spread so that a study of so many trials is not over before the last."""
    draw = random.Random(seed)
    kinds = [kind for kind, times in KINDS.items() for _ in range(times)]
    kinds = (kinds * (n // len(kinds) + 1))[:n] if n >= len(kinds) else draw.sample(kinds, n)
    draw.shuffle(kinds)
    pace = 5 * trials / n  # a trial makes about 8 reports, and some pass while a fault is done
    return [Fault(kind, round(pace * draw.uniform(0.5, 1.5)), round(pace * draw.uniform(0.2, 1.2))) for kind in kinds]


class Maltreated:
    """One study, from its first driver to its end. `done`: the faults; `breakdowns`: what nobody did to it."""

    def __init__(self, driver: Driver, nodes: Nodes, server: Server, journal: Path, seed: int) -> None:
        self.driver, self.nodes, self.server = driver, nodes, server
        self.follower = Follower(journal)
        self.done: list[str] = []
        self.breakdowns: list[str] = []
        self.began = time.monotonic()
        self._draw = random.Random(seed + 1)
        self._over = False
        self._hanging = 0  # pid of the raylet
        self._node_due: int | None = None  # the number of reports at which it is repaired
        self._server_due: int | None = None

    def run(self, faults: list[Fault]) -> None:
        """All faults while the study lasts, then its end. Raises RuntimeError when drivers break down on and on."""
        self.driver.start()
        reports = 0
        for fault in faults:
            if not self._until_reports(reports + fault.after):
                return
            reports = self.follower.reports
            self._do(fault)
        self._until_reports(None)

    def _until_reports(self, n: int | None) -> bool:
        """Wait for so many reports, or for the study's end; False when it has ended."""
        while not self._over and (n is None or self.follower.reports < n):
            self._watch()
            time.sleep(0.05)
        return not self._over

    def _watch(self) -> None:
        """Read on, repair what is due, and see how the driver does."""
        code = self.driver.code()
        self.follower.read()
        if code == 0:
            self._over = True
        elif code is not None:
            self._broken(f"driver {self.driver.pid} ended by itself with {code}: {self.driver.last_lines()}")
        elif time.monotonic() - self.follower.grown > STANDSTILL:
            self.driver.kill()
            self._broken(f"driver {self.driver.pid} stood still for {STANDSTILL:g} s: {self.driver.last_lines()}")
        else:
            self._repair(self.follower.reports)

    def _broken(self, what: str) -> None:
        self.breakdowns.append(what)
        self._say("BROKEN", what)
        if len(self.breakdowns) == MOST_BREAKDOWNS:
            raise RuntimeError(f"{MOST_BREAKDOWNS} breakdowns; the soak gives up")
        self._start()

    def _start(self) -> None:
        """The same command again, with everything in place that it needs at its start."""
        self._repair(None)
        self.server.wait()
        self.driver.start()
        self.follower.grown = time.monotonic()

    def _repair(self, reports: int | None) -> None:
        """What is due at so many reports; None: everything."""
        if self._node_due is not None and (reports is None or reports >= self._node_due):
            self._node_due = None
            if self._hanging:
                self.nodes.lose(self._hanging)
                self._hanging = 0
            self._say("repair", f"node {self.nodes.add()} joins")
        if self._server_due is not None and (reports is None or reports >= self._server_due):
            self._server_due = None
            self.server.start()
            self._say("repair", f"server {self.server.process.pid if self.server.process else ''} starts")

    # one for each kind

    def _do(self, fault: Fault) -> None:
        what = {
            "worker": self._kill_worker,
            "node": self._lose_node,
            "hang": self._hang_node,
            "driver": self._kill_driver,
            "start": self._kill_beginner,
            "ctrl-c": self._interrupt,
            "server": self._kill_server,
        }[fault.kind](fault)
        if what:
            self.done.append(fault.kind)
            self._say(fault.kind, what)
        if self.driver.code() is not None and not self._over:
            self._start()

    def _victim(self) -> psutil.Process | None:
        """A worker that trains, as soon as there is one; None when the study ends before."""
        while not self._over:
            if found := sorted(trainers(), key=lambda process: process.pid):
                return self._draw.choice(found)
            self._watch()
            time.sleep(0.05)
        return None

    def _kill_worker(self, fault: Fault) -> str:
        victim = self._victim()
        if victim is None:
            return ""
        with suppress(psutil.NoSuchProcess):
            victim.kill()
        return f"worker {victim.pid} killed"

    def _lose_node(self, fault: Fault) -> str:
        found = self._busy_node(fault)
        if found is None:
            return ""
        raylet, worker = found
        self.nodes.lose(raylet)
        return f"node of raylet {raylet} and its worker {worker} killed"

    def _hang_node(self, fault: Fault) -> str:
        found = self._busy_node(fault)
        if found is None:
            return ""
        self._hanging, worker = found
        self._node_due = self.follower.reports + 3 * fault.repair  # Ray takes a while to notice
        os.kill(self._hanging, signal.SIGSTOP)
        return f"raylet {self._hanging} hangs, its worker {worker} does not"

    def _busy_node(self, fault: Fault) -> tuple[int, int] | None:
        """Raylet and worker of a node on which a trial runs, all nodes being there; to be replaced later."""
        if self._hanging:
            self._until_reports(self._node_due)
        self._repair(None)
        while victim := self._victim():
            with suppress(psutil.NoSuchProcess):  # that worker was just dying
                raylet = victim.ppid()
                if raylet in self.nodes.raylets:
                    self._node_due = self.follower.reports + fault.repair
                    return raylet, victim.pid
            self._watch()
        return None

    def _kill_driver(self, fault: Fault) -> str:
        pid = self.driver.pid
        self.driver.kill()
        left = len(trainers())
        return f"driver {pid} killed, {left} of its workers alive"

    def _kill_beginner(self, fault: Fault) -> str:
        """The second one as soon as it has written some records, of which the first says that it is there."""
        first = self.driver.pid
        self.driver.kill()
        self._start()
        self.follower.read()
        begun, some = len(self.follower.records), self._draw.randint(1, 6)
        while not self._over and len(self.follower.records) < begun + some:
            self._watch()
            time.sleep(0.01)
        second = self.driver.pid
        self.driver.kill()
        return f"driver {first} killed, and {second} after {len(self.follower.records) - begun} records"

    def _interrupt(self, fault: Fault) -> str:
        self._repair(None)  # a server that is away would only make it wait
        self.server.wait()
        pid, began = self.driver.pid, time.monotonic()
        try:
            code = self.driver.interrupt(GOODBYE)
        except subprocess.TimeoutExpired:
            self.driver.kill()
            self.breakdowns.append(f"driver {pid} did not end within {GOODBYE:g} s of Ctrl-C")
            return f"driver {pid} interrupted, did not end, killed"
        self.follower.read()
        self._over = code == 0  # it ended in the same moment
        if code not in (0, 130):
            self.breakdowns.append(f"driver {pid} ended with {code} at Ctrl-C: {self.driver.last_lines()}")
        return f"driver {pid} interrupted, ended with {code} after {time.monotonic() - began:.1f} s"

    def _kill_server(self, fault: Fault) -> str:
        if self._server_due is not None:
            self._repair(self._server_due)
        pid = self.server.kill()  # perhaps as it starts
        self._server_due = self.follower.reports + fault.repair
        return f"server {pid} killed"

    def _say(self, kind: str, what: str) -> None:
        seconds = time.monotonic() - self.began
        count = f"{len(self.done):>2}" if kind in KINDS else "  "
        print(f"{seconds:>6.1f} s  {count} {kind:<7} {self.follower.stands()}  {what}", flush=True)


def settled(seconds: float = 20) -> list[str]:
    """Workers that still train after the last driver has ended: none, once Ray has noticed."""
    with suppress(TimeoutError):
        until(lambda: not trainers(), seconds, "Ray's workers")
    return [f"worker {process.pid}" for process in trainers()]
