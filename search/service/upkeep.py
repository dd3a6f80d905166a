"""A service's upkeep: one `up` or `down` at a time, the end of a part, and order where something has died."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from data.errors import UserError
from search.service import background, state
from search.service.state import Process, Service


@contextmanager
def alone(storage: Path) -> Iterator[Path]:
    """The service's folder, for one `up` or `down` at a time. Raises UserError when it cannot be written."""
    from filelock import FileLock, Timeout

    folder = state.folder(storage)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        lock = FileLock(folder / "lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(f"another nanosweep up or down is at work in {folder.parent}; wait for it") from None
    except OSError as error:
        raise UserError(f"--storage {folder.parent} cannot be written: {error.strerror}; give another") from None
    try:
        yield folder
    finally:
        lock.release()


def cleaned(service: Service) -> Service:
    """The service without its dead parts, whose leftovers are ended."""
    alive = state.without_dead(service)
    for name, process in service.parts.items():
        if name not in alive.parts:
            end_part(process)
    if alive.ray is None:
        remove_scratch(service)
    return alive


def end_part(process: Process) -> int:
    """End a part with all that belongs to it; how many processes there were."""
    return background.end(lambda: state.members(process))


def settle(service: Service) -> None:
    """Write down what still lives; nothing, when nothing does."""
    if service.parts:
        state.record(service)
    else:
        state.forget(service)


def remove_scratch(service: Service) -> None:
    """Ray's own files; never the storage's."""
    if service.scratch.name.startswith("nanosweep-"):
        shutil.rmtree(service.scratch, ignore_errors=True)
