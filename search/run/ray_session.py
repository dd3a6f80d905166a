"""Ray started quietly, on this machine or at an address, for as long as a block runs.

    with ray_session(address, machine) as session:
        ...                        # what needs no Ray: it takes 3 to 5 s to start, mostly in processes of its own
        scratch = session.wait()
        ...                        # Ray runs
        session.leave()            # it ends, which takes a second or more

One thread starts Ray, waits and ends it: the kernel kills Ray's processes with the thread that started them. Nothing
else goes on while Ray ends: an object of Ray's that another thread lets go at that moment would end this process.
"""

from __future__ import annotations

import gc
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import UserError
from search.study.machine import Node

if TYPE_CHECKING:
    from filelock import FileLock

    from search.run.resources import Share

_MARK = "driver.lock"
# set before Ray is imported, unless the user set them
_ENVIRONMENT = {
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
_QUIET: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL, "configure_logging": True}
# what a trial imports, 3 s of a core (optimizers need torch._dynamo): Ray's first workers do so while the driver still
# prepares. Packages of ours are not among it: a worker finds the right ones only when it is called for a trial
_IMPORTED = ["torch._dynamo", "ray.tune", "pydantic"]
_one_at_a_time = threading.Lock()  # a process is connected to one Ray


@contextmanager
def ray_session(address: str | None, machine: Node, each: Share | None = None) -> Iterator[Session]:
    """Ray begins to start, on this machine or at an address, and ends with the block, which need not wait for the
    start: one that raises while Ray still starts ends at once, and the thread ends Ray behind it.

    each: what a trial will get of a Ray that is started here, whose workers then import meanwhile what trials need.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if "ray" not in sys.modules:
        # Ray listens on every interface; without a token anybody may run code here. One that is imported has read
        # this already, and turns tokens on by itself for a Ray that it starts
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray  # noqa: F401  # here, not in the thread: the block may import what Ray imports

    session = Session(address, machine, each)
    session.start()
    try:
        yield session
    finally:
        session.leave()


class Session(threading.Thread):
    """The thread that holds Ray. started: set once Ray runs, or has failed to."""

    def __init__(self, address: str | None, machine: Node, each: Share | None) -> None:
        super().__init__(name="ray-session", daemon=True)
        self.started = threading.Event()
        self.scratch = Path()  # for Ray's files, on this machine
        self._address, self._machine, self._each = address, machine, each
        self._over = threading.Event()
        self._failure: BaseException | None = None

    def wait(self) -> Path:
        """Wait until Ray runs. Returns the scratch folder.

        Raises UserError when nobody answers at the address, or Ray does not start.
        """
        self.started.wait()
        if self._failure is not None:
            raise self._failure
        return self.scratch

    def leave(self) -> None:
        """Have Ray ended, or the connection, and wait for it, unless it is still starting."""
        gc.collect()  # Ray's objects in cycles go while Ray lives, see above
        self._over.set()
        if self.started.is_set():
            self.join()

    def run(self) -> None:
        """The thread's own."""
        import ray

        with _one_at_a_time:
            try:
                self.scratch, lock = _scratch()
            except OSError as error:
                self._failure = UserError(f"{tempfile.gettempdir()}: no folder can be made there: {error.strerror}")
                self.started.set()
                return
            try:
                if self._address:
                    _connect(self._address)
                else:
                    _start(self._machine, self._each, self.scratch)
                # Ray's own words about trials; ours go through the journal
                logging.getLogger("ray").setLevel(logging.CRITICAL)
            except BaseException as error:  # for `wait`
                self._failure = error
            else:
                self.started.set()
                self._over.wait()
            finally:
                ray.shutdown()
                shutil.rmtree(self.scratch, ignore_errors=True)
                lock.release()
                self.started.set()


def _start(machine: Node, each: Share | None, scratch: Path) -> None:
    """Ray on this machine. Raises UserError when it does not come up."""
    import ray

    config: dict[str, Any] = {"prestart_worker_first_driver": False}  # as many workers again, which nobody uses
    if each is not None and 2 * each.slots > int(machine.cpus):  # Ray begins with a worker per core: most will be used
        config["preload_python_modules"] = _IMPORTED
    try:
        ray.init(
            address="local",  # a stale file of an earlier cluster would otherwise be believed
            num_cpus=int(machine.cpus),
            num_gpus=int(machine.gpus),
            include_dashboard=False,
            _temp_dir=str(scratch),
            _system_config=config,
            **_QUIET,
        )
    except Exception as error:  # a bare Exception where a part of it was too slow
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise UserError(
            f"Ray did not start on this machine: {lines[0]} (it gives its parts 30 s; is the machine busy, or short of "
            "memory?); nothing is lost, run the same command again"
        ) from None


def _connect(address: str) -> None:
    """To a Ray that runs. Raises UserError."""
    import ray

    _check_address(address)
    try:
        ray.init(address=address, **_QUIET)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"the Ray cluster at {address} cannot be used: {str(error).splitlines()[0]}") from None


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
