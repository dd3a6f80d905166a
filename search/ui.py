"""`nanosweep ui`: MLflow's page over the store that `run` writes, on this machine alone, until Ctrl-C."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from data.errors import UserError, nearest
from search.mlflow_store import ARTIFACTS, QUIET, choose_uri, connect, served, shown

if TYPE_CHECKING:
    import psutil

HOST = "127.0.0.1"  # other machines would need authentication; an ssh tunnel gives it
PATIENCE = 90.0  # seconds for the server to answer; 15 on two cores


def serve(storage: Path, port: int, study: str | None = None) -> None:
    """Serve until Ctrl-C. Prints the link that opens the study (default: the newest) sorted by objective.

    Raises UserError for an occupied port, a store that cannot be used, an unknown study.
    """
    uri = choose_uri(storage)
    if served(uri):
        print(f"MLFLOW_TRACKING_URI names a server already: {shown(uri)}")
        print("\n".join(links(uri, uri, study)))
        return
    if uri.startswith("sqlite:") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(f"{shown(uri)}: no such store; nanosweep run makes it (or give its --storage)")
    check_port(port)
    for number in (signal.SIGINT, signal.SIGTERM):  # the server ends with us, also where a shell has us ignore Ctrl-C
        signal.signal(number, signal.default_int_handler)
    with _server(uri, storage, port) as (process, log):
        lines = links(f"http://{HOST}:{port}", uri, study)  # the store is read while the server starts
        _wait(process, port, log)
        print("\n".join([*lines, "Ctrl-C ends it"]), flush=True)
        process.wait()
        raise UserError(f"MLflow's server ended by itself: {_last_line(log)}")


def links(server: str, uri: str, study: str | None = None) -> list[str]:
    """Lines with the link to a study, or to the newest, and the names of the others. Raises UserError."""
    from search.mlflow_read import parents
    from search.mlflow_view import link

    known = parents(connect(uri))
    chosen = [parent for parent in known if study in (None, parent.study, parent.run_id)][:1]
    if not chosen and study is not None:
        hint = nearest(study, {parent.study for parent in known}) if known else "it has no studies"
        raise UserError(f"{study}: no such study in {shown(uri)}; {hint}")
    lines = []
    for parent in chosen:
        address = link(server, parent.experiment_id, parent.run_id)
        lines += [f"{parent.study}, sorted by objective: {address}", f"its curves: {address}&compareRunsMode=CHART"]
    others = sorted({parent.study for parent in known} - {parent.study for parent in chosen})
    if others:
        lines.append(f"others (nanosweep ui STUDY): {', '.join(others)}")
    return lines or [f"{server} (no study in it yet)"]


def check_port(port: int) -> None:
    """Raises UserError when the port is taken: who holds it, and one that is free."""
    if _free(port):
        return
    other = next((p for p in range(port + 1, port + 100) if p < 65536 and _free(p)), None)
    advice = f"; try --port {other}" if other else ""
    raise UserError(f"port {port} is taken by {_holder(port)}{advice}")


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def _holder(port: int) -> str:
    import psutil

    try:
        held = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr]
        pid = next(c.pid for c in held if c.laddr.port == port and c.pid)  # type: ignore[union-attr]
        return f"process {pid} ({' '.join(psutil.Process(pid).cmdline())[:60]})"
    except (psutil.Error, StopIteration):
        return "a process of another user"


@contextmanager
def _server(uri: str, storage: Path, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """MLflow's server as a process group of its own, so that Ctrl-C reaches us first; ended with all its children."""
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--artifacts-destination",
        str((storage / ARTIFACTS).resolve()),
    ]
    command += ["--host", HOST, "--port", str(port), "--workers", "1"]
    # its background jobs serve language-model evaluation, and cost a second process of 200 MB
    environment = {**os.environ, **QUIET, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    environment["MLFLOW_BACKEND_STORE_URI"] = uri  # not an argument: it may hold a password, and `ps` shows those
    environment.pop("MLFLOW_TRACKING_URI", None)
    with tempfile.TemporaryDirectory(prefix="nanosweep-ui-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as out:
            process = _start(command, environment, out)
        try:
            yield process, log
        finally:
            _end(process)


def _start(command: list[str], environment: dict[str, str], out: IO[bytes]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
    )


def _end(process: subprocess.Popen[bytes], patience: float = 8.0) -> None:
    """End a process and what it started: asked first, then forced."""
    import psutil

    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        family = []
    for how in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, how)
        deadline = time.monotonic() + patience
        while (living := any(_lives(member) for member in family)) and time.monotonic() < deadline:
            time.sleep(0.05)
        if not living:
            break
    process.wait(patience)


def _lives(process: psutil.Process) -> bool:
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise UserError(f"MLflow's server did not start: {_last_line(log)}")
        try:
            # past any proxy of the environment: it is on this machine
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            opener.open(f"http://{HOST}:{port}/health", timeout=2).close()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise UserError(f"MLflow's server did not answer within {PATIENCE:g} s: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    return next((line for line in reversed(lines) if line), "it said nothing")
