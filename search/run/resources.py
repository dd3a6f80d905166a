"""What one trial gets of the machines there are, and Ray started quietly on them.

`resources: auto` is one GPU per trial, with its share of the cores, where there are GPUs; elsewhere one core per
trial, as many trials as cores. On 2 cores two trials of 1 thread trained 4.7 times the tokens per second of one
trial of 2 threads (4L/128d/T128/B8, a busy machine: threads of one step wait for the slowest of them).
"""

from __future__ import annotations

import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from search.spec.study_spec import Resources
from search.study.machine import Node
from trainer.yaml_file import YamlFile

if TYPE_CHECKING:
    from filelock import FileLock

_MARK = "driver.lock"
# set before Ray is imported, unless the user set them
_QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output prints boxes whatever verbose says
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths in a config mean what they meant on the driver
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: running trials become `interrupted`, not lost
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that ends without a report would end the whole study
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # result.json, progress.csv and event files: the journal has it all
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".*",  # pages about each worker that died, which the journal tells in a line
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # nobody reads Tune's snapshots
}


@dataclass(frozen=True)
class Share:
    """What one trial gets, and how many trials run at once."""

    cpus: float
    gpus: float
    slots: int

    @property
    def threads(self) -> int:
        """Threads of one trial: as many as it has whole cores, at least one."""
        return max(1, int(self.cpus))


def cluster() -> list[Node]:
    """The nodes of the Ray cluster that we are connected to."""
    import ray

    return [
        Node(node["NodeManagerHostname"], node["Resources"].get("CPU", 0.0), node["Resources"].get("GPU", 0.0))
        for node in ray.nodes()
        if node["Alive"]
    ]


def share(wanted: Resources | None, nodes: list[Node], file: YamlFile, device: str = "auto") -> Share:
    """What each trial gets on these nodes; wanted None is `auto`; device is the base config's.

    Raises UserError with what was asked and what there is, where no node can meet it.
    """
    n_gpus = sum(node.gpus for node in nodes)
    if wanted is None:
        chosen = _auto(nodes) if n_gpus and device != "cpu" else Resources(cpus=1, gpus=0)
    else:
        chosen = wanted
    where = file.where(("resources",))
    if chosen.gpus and not n_gpus:
        raise UserError(f"{where}: gpus: {chosen.gpus:g} per trial, but there is no GPU here; use gpus: 0, or auto")
    if device == "cuda" and not chosen.gpus:
        raise UserError(
            f"{where}: the base config says device: cuda, but a trial gets no GPU ({n_gpus:g} here); "
            "use device: auto, or give each trial one (resources: {gpus: 1})"
        )
    at_once = slots(chosen, nodes)
    if not at_once:
        raise UserError(
            f"{where}: no machine can give a trial cpus: {chosen.cpus:g} and gpus: {chosen.gpus:g}; "
            f"there is {has(nodes)}. Ask for less, or auto"
        )
    return Share(chosen.cpus, chosen.gpus, min(at_once, chosen.at_once or at_once))


def slots(wanted: Resources | Share, nodes: list[Node]) -> int:
    """How many such trials run at once on these nodes."""
    return sum(_fit(wanted, node) for node in nodes)


def has(nodes: list[Node]) -> str:
    """What there is, for people."""
    return "; ".join(sorted({f"{node.name}: {node.cpus:g} CPUs, {node.gpus:g} GPUs" for node in nodes})) or "no node"


def _auto(nodes: list[Node]) -> Resources:
    """One GPU, and the cores that the node with the fewest per GPU has for it."""
    shares = [node.cpus // node.gpus for node in nodes if node.gpus]
    return Resources(cpus=max(1, int(min(shares))), gpus=1)


def _fit(wanted: Resources | Share, node: Node) -> int:
    """How many such trials run on a node at once; a fraction of a GPU never spans two."""
    by_cpu = int(node.cpus / wanted.cpus + 1e-9)
    return min(by_cpu, int(node.gpus) * int(1 / wanted.gpus + 1e-9)) if wanted.gpus else by_cpu


@contextmanager
def ray_session(address: str | None, machine: Node) -> Iterator[Path]:
    """Ray, on this machine or at an address, for as long as the block runs; hands out a scratch folder for it.

    Raises UserError when nobody answers at the address, or Ray does not start.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    if "ray" not in sys.modules:
        # Ray listens on every interface; without a token anybody may run code here. One that is imported has read
        # this already, and turns tokens on by itself for a Ray that it starts
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    scratch, lock = _scratch()
    quiet = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
    try:
        if address:
            _check_address(address)
            try:
                ray.init(address=address, **quiet)
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise UserError(f"the Ray cluster at {address} cannot be used: {str(error).splitlines()[0]}") from None
        else:
            _start(machine, scratch, quiet)
        # Ray's own words about trials; ours go through the journal
        logging.getLogger("ray").setLevel(logging.CRITICAL)
        yield scratch
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)
        lock.release()


def _start(machine: Node, scratch: Path, quiet: dict[str, Any]) -> None:
    """Ray on this machine. Raises UserError when it does not come up."""
    import ray

    try:
        ray.init(
            address="local",  # a stale file of an earlier cluster would otherwise be believed
            num_cpus=int(machine.cpus),
            num_gpus=int(machine.gpus),
            include_dashboard=False,
            _temp_dir=str(scratch),
            **quiet,
        )
    except Exception as error:  # a bare Exception where a part of it was too slow
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"Ray did not start on this machine: {lines[0]} (it gives its parts 30 s; is the machine busy, or short of "
            "memory?); nothing is lost, run the same command again"
        ) from None


def _check_address(address: str) -> None:
    """Ray itself would try a dead address for more than ten minutes."""
    if "://" in address:
        raise UserError(
            f"address {address}: the driver must run inside the cluster (ray job submit), or reach its head node "
            "as HOST:6379"
        )
    host, colon, port = address.rpartition(":")
    if not colon:
        return  # `auto`: Ray finds out, or says at once that it cannot
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, ValueError) as error:
        raise UserError(f"no Ray cluster answers at {address}: {error}; start it, or leave the address out") from None


def _scratch() -> tuple[Path, FileLock]:
    """A new folder, locked as long as we live; those of drivers that were killed go away.

    Its name is short: Ray's sockets lie in it, and a socket's path has at most 107 characters.
    """
    from filelock import FileLock, Timeout

    usual = Path(tempfile.gettempdir())
    parent = usual if len(str(usual)) < 25 else Path("/tmp")
    for mark in parent.glob(f"nanosweep-*/{_MARK}"):
        with suppress(Timeout, OSError), FileLock(mark, timeout=0):
            shutil.rmtree(mark.parent, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="nanosweep-", dir=parent))
    lock = FileLock(folder / _MARK)
    lock.acquire()
    return folder, lock
