"""A real Ray cluster on this machine, as `ray start` makes it: a head with dashboard and token, nodes on demand."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.soak.processes import ROOT, free_port
from tests.waiting import CEILING, until


class Head:
    """address: of its dashboard. environment: of whoever wants to reach it; raylets: pids of its nodes' daemons, the
    head's own first."""

    def __init__(self, folder: Path, cpus: int) -> None:
        """folder: for logs, the token and prepared data."""
        self._short = tempfile.TemporaryDirectory(prefix="nsh-", dir="/tmp", ignore_cleanup_errors=True)
        self.port, self.dashboard = free_port(), free_port()
        self.address = f"http://127.0.0.1:{self.dashboard}"
        self.token = secrets.token_hex(32)
        self.log = folder / "ray.log"
        token = folder / "token"
        token.touch(0o600)
        token.write_text(self.token)
        gone = ("MLFLOW_TRACKING_URI", "RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN", "PYTHONPATH")
        self.environment = {name: value for name, value in os.environ.items() if name not in gone}
        self.environment |= {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_TMPDIR": self._short.name,
            "TMPDIR": self._short.name,
            "NANOSWEEP_CACHE": str(folder / "cache"),
            "OMP_NUM_THREADS": "1",
        }
        self._started: list[subprocess.Popen[bytes]] = []
        self._ray(
            "--head",
            f"--port={self.port}",
            f"--dashboard-port={self.dashboard}",
            f"--ray-client-server-port={free_port()}",
            cpus=cpus,
        )
        until(self._answers, "Ray's head")

    def _ray(self, *options: str, cpus: int, **more: str) -> None:
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--disable-usage-stats", *options]
        # fixed by default, so that another cluster on the machine would be in the way
        command += [f"--dashboard-agent-listen-port={free_port()}", f"--num-cpus={cpus}", "--num-gpus=0"]
        with self.log.open("ab") as log:
            self._started.append(
                subprocess.Popen(
                    command, env={**self.environment, **more}, stdout=log, stderr=log, start_new_session=True
                )
            )

    def _answers(self) -> bool:
        ended = [process.returncode for process in self._started if process.poll() is not None]
        assert not ended, self.log.read_text(errors="replace")[-2000:]
        return bool(self.get("/api/jobs/") is not None and self.raylets)

    def get(self, path: str, token: bool = True) -> object:
        """What the dashboard answers; None while it does not. Raises HTTPError for a refusal."""
        request = urllib.request.Request(self.address + path)
        if token:
            request.add_header("Authorization", f"Bearer {self.token}")
        try:
            with urllib.request.urlopen(request, timeout=CEILING) as answer:
                return json.load(answer)
        except urllib.error.HTTPError:
            raise
        except OSError:
            return None

    def add(self, cpus: int, **more: str) -> None:
        """One more node on this machine; returns when it has joined. more: its environment."""
        until(self._joined, "the dashboard's list of nodes")  # empty while it is too busy to answer
        there = self._joined()
        for _ in range(3):  # Ray gives a node 30 seconds to join, which on a busy machine is not enough
            self._ray(f"--address=127.0.0.1:{self.port}", cpus=cpus, **more)
            until(lambda: self._joined() > there or self._started[-1].poll() is not None, "a node")
            if self._started[-1].poll() is None:
                return
            self._started.pop()
        raise AssertionError(self.log.read_text(errors="replace")[-2000:])

    def _joined(self) -> int:
        return sum(node["state"] == "ALIVE" for node in self.state("nodes"))

    def state(self, what: str) -> list[dict[str, Any]]:
        """Nodes, or workers alive and dead, as Ray tells of them."""
        answer: Any = self.get(f"/api/v0/{what}?limit=1000&detail=true")
        return list(answer["data"]["result"]["result"]) if answer else []

    @property
    def raylets(self) -> list[int]:
        found = []
        for process in self._started:
            with suppress(psutil.NoSuchProcess):
                for child in psutil.Process(process.pid).children(recursive=True):
                    with suppress(psutil.NoSuchProcess):
                        if child.name() == "raylet":
                            found.append(child.pid)
        return found

    def logs(self) -> str:
        """Everything that Ray has written of itself and of its jobs."""
        files = [path for path in Path(self._short.name).glob("**/logs/**/*") if path.is_file()]
        return "\n".join(path.read_text(errors="replace") for path in [*files, self.log])

    def processes(self) -> list[psutil.Process]:
        found: list[psutil.Process] = []
        for process in self._started:
            with suppress(psutil.NoSuchProcess):
                found += [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        return found

    def close(self) -> None:
        """In good order, then by force."""
        family = self.processes()
        for process in reversed(self._started):
            process.terminate()
        _, left = psutil.wait_procs(family, timeout=15)  # then by force
        for process in left:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        for process in self._started:
            process.wait(CEILING)
        self._short.cleanup()


def nanosweep(head: Head, *words: str, cwd: Path = ROOT, **more: str) -> subprocess.CompletedProcess[str]:
    """A command as a user of that cluster types it. more: environment."""
    return subprocess.run(
        [sys.executable, "-m", "search", *words],
        cwd=cwd,
        env={**head.environment, "PYTHONPATH": str(ROOT), **more},
        capture_output=True,
        text=True,
        timeout=CEILING,
    )
