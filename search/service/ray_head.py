"""A Ray head as a process of its own, always with a token: its command, its environment, and what its dashboard says.

Ray listens on all of the machine's addresses whatever one asks (only the dashboard obeys), and whoever reaches it may
run code. So none is started without a token, and the token is in a file of mode 600, never on a command line. No Ray
is imported here: its command starts it, and its dashboard answers over HTTP.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import sys
import tempfile
import urllib.request
from pathlib import Path
from typing import Any

from search.service.background import answers, free
from search.service.state import Service
from trainer.files import check_private, write_private

TOKEN = "ray-token"
WORKER_PORTS = range(10002, 20000)  # Ray's default for its workers
_PORTS = range(20000, 32000)  # above those, below those that the system gives to clients
# Ray's command, told that it lacks what its client server (ray://) needs. Nobody here uses that one: it would be one
# more open port, and a head ends when it does not come up in time
_RAY = "import ray.scripts.scripts as ray; ray.get_ray_client_dependency_error = lambda: 'not wanted'; ray.main()"
# of another cluster, or the secret itself in the environment
_NOT_OURS = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_JOB_HEADERS", "RAY_AUTH_TOKEN", "RAY_TMPDIR")


def make_token(folder: Path) -> Path:
    """The file with the token, made once."""
    path = folder / TOKEN
    if path.exists():
        check_private(path)
    else:
        write_private(path, secrets.token_hex(32) + "\n")
    return path


def make_scratch() -> Path:
    """A folder for Ray's, which Ray opens to everybody: so this one around it is its user's alone.

    Its name is short, as sockets lie in there, and a socket's path has at most 107 characters.
    """
    usual = Path(tempfile.gettempdir())
    return Path(tempfile.mkdtemp(prefix="nanosweep-", dir=usual if len(str(usual)) < 20 else "/tmp"))


def command(scratch: Path, host: str, port: int, dashboard: int, cpus: float, gpus: float | None) -> list[str]:
    """`ray start` that stays, as the parent of all that belongs to the head: when it dies, they do."""
    words = [sys.executable, "-c", _RAY, "start", "--head", "--block", "--disable-usage-stats"]
    words += ["--port", str(port), "--dashboard-host", host, "--dashboard-port", str(dashboard)]
    # fixed by default, so that a second head on the machine would break
    words += ["--dashboard-agent-listen-port", str(_some_port())]
    words += ["--temp-dir", str(scratch / "ray"), "--log-style", "record", "--num-cpus", f"{cpus:g}"]
    return words + ([] if gpus is None else ["--num-gpus", f"{gpus:g}"])


def was_slow(log: Path) -> bool:
    """Whether Ray gave up because the machine was too busy: it waits for 30 s, whatever one asks."""
    return "timed out during startup" in log.read_text(errors="replace")


def environment(token: Path, more: dict[str, str]) -> dict[str, str]:
    """The head's environment, which its jobs inherit; more: what they need besides.

    Our interpreter comes first on the PATH, so that `ray job submit -- python -m search ...` finds its packages.
    """
    variables = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    quiet = {"RAY_USAGE_STATS_ENABLED": "0", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}
    return {**variables, **quiet, **more, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}


def _some_port() -> int:
    """A free one, or 0: Ray's choice."""
    return next((port for port in random.sample(_PORTS, 200) if free(port, "0.0.0.0")), 0)


def ask(service: Service, path: str, timeout: float = 5) -> Any:
    """What the dashboard answers to GET, with our token; None when it does not."""
    if service.token_file is None or not service.token_file.exists():
        return None
    said = answers(f"{service.dashboard}{path}", _headers(service.token_file), timeout)
    try:
        return None if said is None else json.loads(said)
    except ValueError:
        return None


def _headers(token: Path) -> dict[str, str]:
    return {"Authorization": f"Bearer {token.read_text(encoding='utf-8').strip()}"}


def nodes(service: Service, timeout: float = 5) -> list[dict[str, Any]] | None:
    """The living nodes, each with node_ip and resources_total (CPU, GPU, ...); None when the dashboard is silent."""
    said = ask(service, "/api/v0/nodes?detail=true", timeout)
    try:
        return [node for node in said["data"]["result"]["result"] if node["state"] == "ALIVE"]
    except (TypeError, KeyError):
        return None


def jobs(service: Service) -> list[dict[str, Any]]:
    """The submitted jobs that are not over, each with submission_id, status, entrypoint."""
    said = ask(service, "/api/jobs/")
    listed = said if isinstance(said, list) else []
    return [job for job in listed if job["type"] == "SUBMISSION" and job["status"] in ("PENDING", "RUNNING")]


def stop_job(service: Service, name: str) -> None:
    """Ask a job to end: its driver gets SIGTERM."""
    if service.token_file is not None:
        request = urllib.request.Request(
            f"{service.dashboard}/api/jobs/{name}/stop", method="POST", headers=_headers(service.token_file)
        )
        with contextlib.suppress(OSError):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10).close()
