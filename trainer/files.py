"""Write files atomically: under another name, then renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from data.errors import UserError


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Write a temporary file in the same folder, then rename it. On a full disk the old file stays; raises
    UserError."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            fill(file)
        partial.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save turns a failed write into a RuntimeError
        full = getattr(error, "errno", None) == errno.ENOSPC or shutil.disk_usage(path.parent).free < 2**20
        if not full:
            raise
        raise UserError(f"no space left for {path}; the checkpoint before it is whole. Free some and resume") from None
    finally:
        partial.unlink(missing_ok=True)


def replace_text(path: Path, content: str) -> None:
    """Replace a text file atomically; its folder is created if it is missing.

    Raises UserError when it cannot be written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(content, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise UserError(f"{path}: cannot be written: {error.strerror}") from None


def write_private(path: Path, text: str) -> None:
    """Write a file with mode 600 from its creation on, atomically.

    Raises UserError where the file system keeps no modes.
    """
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    check_private(partial)
    partial.replace(path)


def check_private(path: Path) -> None:
    """Set mode 600 on a file that holds a secret. Raises UserError where the file system does not keep it."""
    path.chmod(0o600)
    if path.stat().st_mode & 0o077:
        raise UserError(f"{path}: this file system lets others read it; give a --storage that keeps file modes")
