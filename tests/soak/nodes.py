"""A Ray cluster of a few nodes on this machine, in a process of its own that adds nodes and loses them hard.

    python -m tests.soak.nodes        # reads a JSON line for each request, answers with one

The head has no CPUs: it runs no trial, and drivers are connected to it, so it is not the one to lose.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.soak.processes import ROOT, end

# Ray notices a node that hangs within some ten seconds, not half a minute; and it asks a lost node for the data that
# were there for one second, not ten, before it asks another
_WATCHFUL = {"health_check_period_ms": 1000, "health_check_timeout_ms": 2000, "health_check_failure_threshold": 4}
_WATCHFUL |= {"object_manager_pull_timeout_ms": 1000}


class Nodes:
    """The cluster as the soak holds it. `address`: of the head; `raylets`: pids of the nodes that can be lost."""

    def __init__(self, n: int, environment: dict[str, str], log: Path) -> None:
        command = [sys.executable, "-m", "tests.soak.nodes"]
        with log.open("ab") as errors:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                start_new_session=True,
            )
        self.address = str(self._ask("head"))
        self.raylets: list[int] = []
        for _ in range(n):
            self.add()

    def _ask(self, what: str, pid: int = 0) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, pid]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the Ray cluster's process ended at `{what}`; its log says why")
        return json.loads(line)

    def add(self) -> int:
        """A node with one CPU; returns when it has joined. Its raylet's pid."""
        pid = int(self._ask("add"))
        self.raylets.append(pid)
        return pid

    def lose(self, raylet: int) -> None:
        """SIGKILL to a node's raylet and agents; its workers die with it."""
        self._ask("lose", raylet)
        self.raylets.remove(raylet)

    def close(self) -> None:
        """The whole cluster in good order, then by force."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            end(self.process)


def _serve() -> None:
    """The other side: what is asked on stdin is done in order."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # Ray may print
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    nodes: dict[int, Any] = {}
    for line in sys.stdin:
        what, pid = json.loads(line)
        answer: Any = None
        if what == "head":
            cluster.add_node(num_cpus=0, include_dashboard=False, _system_config=_WATCHFUL)
            answer = cluster.address
        elif what == "add":
            node = cluster.add_node(num_cpus=1)
            answer = node.all_processes["raylet"][0].process.pid
            nodes[answer] = node
        elif what == "lose":
            cluster.remove_node(nodes.pop(pid), allow_graceful=False)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
    cluster.shutdown()


if __name__ == "__main__":
    _serve()
