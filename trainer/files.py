"""Files that are whole at any moment: written under another name, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import IO

from data.errors import UserError


def write(path: Path, fill: Callable[[IO[bytes]], object]) -> None:
    """Fill a temporary neighbour, then rename. On a full disk: the old file stays, UserError."""
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
