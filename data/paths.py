"""Paths as people write them: what can be none is said in one line, where Python would raise this or that."""

from __future__ import annotations

import errno
from pathlib import Path

from data.errors import UserError


def at_home(path: Path | str) -> Path:
    """`~` and `~user` written out. Raises UserError for a user who is not there, and a name too long for any file."""
    try:
        found = Path(path).expanduser()
        found.is_file()
    except RuntimeError:
        raise UserError(f"{path}: there is no user {Path(path).parts[0].removeprefix('~')} here") from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # what may not be read is found out by whoever reads it
            return found
        text = str(path)
        raise UserError(f"{text[:60]}...: {len(text)} characters are too long for a file's name") from None
    return found


def is_file(path: Path) -> bool:
    """Whether there is such a file; what can be none, or may not be looked at, is none."""
    try:
        return path.is_file()
    except OSError:
        return False
