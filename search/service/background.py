"""Server processes on this machine: free ports, a start that outlives the terminal, an end with all children."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError

if TYPE_CHECKING:
    import psutil

HOST = "127.0.0.1"
MARK = "NANOSWEEP_SERVICE"  # in the environment of all that a service starts, whatever its parent is by then
PATIENCE = 180.0  # seconds for a server to answer; 15 on two idle cores


def check_port(port: int, option: str = "--port", host: str = HOST) -> None:
    """Raises UserError when the port is taken (who holds it, and one that is free) or the host is not this machine."""
    if free(port, host):
        return
    other = next((p for p in range(port + 1, port + 100) if p < 65536 and free(p, host)), None)
    advice = f"; try {option} {other}" if other else ""
    raise UserError(f"port {port} is taken by {_holder(port)}{advice}")


def free(port: int, host: str = HOST) -> bool:
    """Whether one can listen there. Raises UserError when the host is no address of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except PermissionError:
            raise UserError(f"port {port} is for the system; use one from 1024") from None
        except OSError as error:
            if isinstance(error, socket.gaierror) or "assign" in str(error):
                raise UserError(f"--host {host} is no IPv4 address of this machine; use one, or 0.0.0.0") from None
            return False
    return True


def _holder(port: int) -> str:
    import psutil

    try:
        held = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.laddr]
        pid = next(c.pid for c in held if c.laddr.port == port and c.pid)  # type: ignore[union-attr]
        holder = psutil.Process(pid)
        what = " ".join(holder.cmdline())[:60]
        with suppress(psutil.Error, OSError):
            if storage := storage_of(holder.environ().get(MARK, "")):
                what = f"the service of {storage}"
        return f"process {pid} ({what})"
    except (psutil.Error, StopIteration):
        return "a process of another user"


def mark_of(storage: Path, part: str) -> str:
    """A value of MARK for a part of a storage's service; never the same twice."""
    return f"{storage}#{part}#{os.urandom(8).hex()}"


def storage_of(mark: str) -> str:
    """The storage that a mark names; empty when it is none."""
    return mark.rsplit("#", 2)[0]


def begin(command: list[str], environment: dict[str, str], log: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Start a server with its own session, so that no terminal and no Ctrl-C reaches it. It works in the folder."""
    with log.open("wb") as out:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            cwd=folder,
        )


def wait(
    process: subprocess.Popen[bytes], ready: Callable[[], bool], log: Path, name: str, patience: float = PATIENCE
) -> None:
    """Wait until ready() is true. Raises UserError with the log's last line when the server ends, or is too late."""
    deadline = time.monotonic() + patience
    while not ready():
        if process.poll() is not None:
            raise UserError(f"{name} did not start: {last_line(log)}")
        if time.monotonic() > deadline:
            raise UserError(f"{name} did not answer within {patience:g} s: {last_line(log)}")
        time.sleep(0.2)


def answers(url: str, headers: dict[str, str] | None = None, timeout: float = 2) -> bytes | None:
    """What a server of this machine says to GET; None when it does not answer, or with an error."""
    try:
        # past any proxy of the environment: it is on this machine
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(urllib.request.Request(url, headers=headers or {}), timeout=timeout) as answer:
            return bytes(answer.read())
    except (urllib.error.URLError, OSError, ValueError):
        return None


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    return next((line for line in reversed(lines) if line), "it said nothing")


def end(find: Callable[[], Iterable[psutil.Process]], patience: float = 8.0) -> int:
    """End processes and whatever they started: asked first, then forced. How many there were.

    find() names them; it is asked again before force, as they may have started others. Raises UserError when one
    belongs to another user.
    """
    import psutil

    family: set[psutil.Process] = set()
    for how in (signal.SIGTERM, signal.SIGKILL):
        family |= set(find())
        family |= _descendants(family)
        family -= {psutil.Process()}
        for member in family:
            _send(member, how)
        if _gone(family, patience):
            break
    return len(family)


def group(pid: int) -> list[psutil.Process]:
    """The processes of a process's group, it included: also those whose parent has died."""
    import psutil

    members = []
    for process in psutil.process_iter():
        with suppress(psutil.Error, ProcessLookupError, PermissionError):
            if os.getpgid(process.pid) == pid:
                members.append(process)
    return members


def _descendants(family: set[psutil.Process]) -> set[psutil.Process]:
    """What they started, and what that started, as far as the parents still live."""
    import psutil

    children: dict[int, list[psutil.Process]] = {}
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            children.setdefault(process.ppid(), []).append(process)
    family_of: set[psutil.Process] = set()
    fresh = family
    while fresh:
        fresh = {child for member in fresh for child in children.get(member.pid, [])} - family_of - family
        family_of |= fresh
    return family_of


def _send(process: psutil.Process, how: int) -> None:
    import psutil

    try:
        process.send_signal(how)
    except psutil.NoSuchProcess:
        pass
    except psutil.AccessDenied:
        raise UserError(f"process {process.pid} belongs to another user, who must end it") from None


def _gone(family: Iterable[psutil.Process], patience: float) -> bool:
    deadline = time.monotonic() + patience
    living = [member for member in family if breathes(member)]
    while living and time.monotonic() < deadline:
        time.sleep(0.05)
        living = [member for member in living if breathes(member)]
    return not living


def breathes(process: psutil.Process) -> bool:
    """Whether it runs: a zombie that nobody has waited for does not."""
    import psutil

    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def environ(process: psutil.Process) -> dict[str, Any]:
    """The environment it was started with; empty where it cannot be read."""
    import psutil

    try:
        return dict(process.environ())
    except (psutil.Error, OSError):
        return {}
