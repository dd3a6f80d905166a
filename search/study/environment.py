"""The environment in which a study ran, for its header: git commit, package versions, machine.

A job on a cluster has a copy of the code without its git repository; `submit` passes the commit in the environment
variables COMMIT and DIRTY.
"""

from __future__ import annotations

import os
import platform
import socket
import subprocess
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
NAME = "nanosweep"
COMMIT, DIRTY = "NANOSWEEP_COMMIT", "NANOSWEEP_DIRTY"
PACKAGES = ("torch", "numpy", "ray", "optuna", "mlflow", "tiktoken", "tokenizers", "datasets", "pydantic")


def facts() -> dict[str, Any]:
    """commit, dirty (None where the code is not a git checkout), packages, host: the fields of a study record."""
    commit, dirty = code()
    return {"commit": commit, "dirty": dirty, "packages": packages(), "host": host()}


def code(root: Path = ROOT) -> tuple[str | None, bool | None]:
    """The commit of a checkout, and whether tracked files differ from it.

    Without git both come from the environment variables; without these they are (None, None).
    """
    # a copy inside another repository must not report that repository's commit
    if _git(root, "rev-parse", "--show-toplevel") != str(root):
        return os.environ.get(COMMIT) or None, {"1": True, "0": False}.get(os.environ.get(DIRTY, ""))
    commit, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain", "--untracked-files=no")
    return commit or None, None if changes is None else bool(changes)


def described() -> str:
    """The version of this program, and the commit where it is known: `0.1.0 (0123456789ab, uncommitted changes)`."""
    commit, dirty = code()
    try:
        release = version(NAME)
    except PackageNotFoundError:  # a copy that was not installed, as that of a job
        with (ROOT / "pyproject.toml").open("rb") as file:
            release = tomllib.load(file)["project"]["version"]
    if commit is None:
        return release
    return f"{release} ({commit[:12]}{', uncommitted changes' if dirty else ''})"


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def as_variables() -> dict[str, str]:
    """`code()` as environment variables, for a copy of the code without git."""
    commit, dirty = code()
    return {} if commit is None else {COMMIT: commit, **({} if dirty is None else {DIRTY: str(int(dirty))})}


def packages() -> dict[str, str]:
    """Versions of the packages that results depend on, from their metadata, without importing them."""
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def host() -> dict[str, Any]:
    """The driver's machine: name, system, cores, memory (GiB), and on Linux the CPU model."""
    import psutil

    model = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), model)
    except OSError:
        pass
    return {
        "name": socket.gethostname(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": psutil.cpu_count() or 1,
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "cpu": model,
    }
