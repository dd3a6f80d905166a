"""The lock of a folder that one process at a time may write: a run folder, a study's folder.

    with locked(folder, "run", keep=["config.yaml"], busy="is being trained by", advice="wait for it"):
        ...

The lock is an flock on `<name>.lock`: the operating system releases it as soon as its holder dies, however it dies.
Who holds it is in `<name>.json` for as long as it is held, for messages.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from data.errors import UserError


@contextmanager
def locked(folder: Path, name: str, keep: Sequence[str], busy: str, advice: str, job: str = "") -> Iterator[None]:
    """Create the folder if needed and hold its lock for as long as the block runs.

    keep: names of files, one of which must be in the folder at the end: without any, the lock's file goes away, and so
    does a folder that this call created. busy, advice: what a second one is told around the name of the first.
    job: the id of the cluster's job that this process is.
    Raises UserError (kind `held`) where another process holds it, OSError where the folder cannot be written.
    """
    from filelock import FileLock, Timeout

    holder = folder / f"{name}.json"
    lock = FileLock(folder / f"{name}.lock")
    new_folders = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        holder.write_text(json.dumps(_me(job)))
    except Timeout:
        raise UserError(f"{folder} {busy} {_describe(holder)}; {advice}", kind="held") from None
    except OSError:
        lock.release()
        _remove_empty(new_folders)
        raise
    try:
        yield
    finally:
        holder.unlink(missing_ok=True)
        unused = not any((folder / file).exists() for file in keep)
        if unused:
            # while the lock is held: a lock file that another process creates after this is a new file and stays
            Path(lock.lock_file).unlink(missing_ok=True)
            if folder in new_folders:
                shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        if unused:
            _remove_empty(new_folders)


def _me(job: str) -> dict[str, Any]:
    me = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    return {**me, "job": job or None}


def _describe(holder: Path) -> str:
    try:
        me = json.loads(holder.read_text())
        job = f"job {me['job']}, " if me.get("job") else ""
        return f"{job}process {me['pid']} on {me['host']} since {me['since']}"
    except (OSError, ValueError, KeyError):
        return "another process, which has only just begun"


def holder_of(folder: Path, name: str) -> str | None:
    """The process that holds a folder at present, as far as can be seen without its lock; None without one."""
    try:
        me = json.loads((folder / f"{name}.json").read_text())
        if me["host"] == socket.gethostname():
            os.kill(me["pid"], 0)  # signal 0 tests whether the process exists; a killed one leaves its file
        return f"process {me['pid']} on {me['host']}"
    except PermissionError:
        return "another user's process"
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remove_empty(new_folders: list[Path]) -> None:
    for path in new_folders:  # from the folder upwards; rmdir refuses one that is not empty
        with suppress(OSError):
            path.rmdir()
