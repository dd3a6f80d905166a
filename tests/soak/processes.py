"""The processes of a soak: started, found again whoever their parent was, and ended.

The soak adopts what its descendants leave behind (a killed driver's, a lost node's), so that nothing can hide: all
that lives below it is its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from tests.waiting import CEILING

ROOT = Path(__file__).resolve().parent.parent.parent
_PR_SET_CHILD_SUBREAPER = 36


def adopt() -> None:
    """From now on an orphan below this process becomes its child, not that of the system's first process (Linux)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def until(said: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for something to become true. Raises TimeoutError that names it."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := said():
            return found
        time.sleep(0.05)
    raise TimeoutError(f"{what}: not within {seconds:g} s")


def ours() -> list[psutil.Process]:
    """Everything that lives below this process; the dead that nobody has waited for are left out."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def trainers() -> list[psutil.Process]:
    """Ray's workers that train; psutil reads a process's name as Ray rewrites it."""
    found = []
    for process in ours():
        with suppress(psutil.NoSuchProcess):
            if "ImplicitFunc" in "".join(process.cmdline()[:1]):
                found.append(process)
    return found


def said(process: psutil.Process) -> str:
    """Pid and the beginning of the command line."""
    with suppress(psutil.NoSuchProcess):
        return f"{process.pid} {' '.join(process.cmdline())[:80]}"
    return str(process.pid)


def end(process: subprocess.Popen[Any]) -> None:
    """Kill a process that leads a group, and the group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(CEILING)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """MLflow's server on SQLite, as `nanosweep ui` starts it; may be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--artifacts-destination", str(self.folder / "mlartifacts")]
        command += ["--backend-store-uri", f"sqlite:///{self.folder / 'mlflow.db'}"]
        environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
        environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        environment.pop("MLFLOW_TRACKING_URI", None)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def wait(self) -> None:
        """Until it answers. Raises TimeoutError."""
        until(self._answers, CEILING, "MLflow's server")

    def _answers(self) -> bool:
        try:
            urllib.request.urlopen(f"{self.uri}/health", timeout=2).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    def kill(self) -> int:
        """SIGKILL to it and its workers. Returns its pid."""
        assert self.process is not None
        pid, process = self.process.pid, self.process
        self.process = None
        end(process)
        return pid


class Driver:
    """`nanosweep run SPEC`, the same command each time; address: of a Ray cluster, else Ray is started for it."""

    def __init__(self, spec: Path, address: str | None, environment: dict[str, str], log: Path) -> None:
        self.command = [sys.executable, "-m", "search", "run", str(spec)] + (["--address", address] if address else [])
        self.environment, self.log = environment, log
        self.process: subprocess.Popen[bytes] | None = None
        self.starts = 0

    def start(self) -> None:
        self.starts += 1
        with self.log.open("ab") as log:
            log.write(f"\n== driver {self.starts}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                self.command,
                cwd=ROOT,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        assert self.process is not None
        return self.process.poll()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(CEILING)

    def interrupt(self, seconds: float) -> int:
        """Ctrl-C, as a terminal sends it. Its exit code. Raises subprocess.TimeoutExpired."""
        assert self.process is not None
        os.killpg(self.process.pid, signal.SIGINT)
        return self.process.wait(seconds)

    def last_lines(self, n: int = 5) -> str:
        lines = [line.strip() for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return " | ".join(lines[-n:])
