"""Paths as users write them: text that can be no path is a UserError of one line, not an exception of Python's."""

from __future__ import annotations

import errno
import stat
from pathlib import Path

from data.errors import UserError


def at_home(path: Path | str) -> Path:
    """The path with `~` and `~user` expanded. Raises UserError for an unknown user and for too long a name."""
    try:
        expanded = Path(path).expanduser()
        expanded.is_file()
    except RuntimeError:
        raise UserError(
            f"{path}: there is no user {Path(path).parts[0].removeprefix('~')} here", kind="no_user"
        ) from None
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:  # whoever reads the file reports that it may not
            return expanded
        text = str(path)
        raise UserError(
            f"{text[:60]}...: {len(text)} characters are too long for a file's name", kind="too_long"
        ) from None
    return expanded


def is_file(path: Path) -> bool:
    """Whether there is such a file; False for text that can be no path and where permission is missing."""
    try:
        return path.is_file()
    except OSError:
        return False


def entry(path: Path) -> str:
    """What there is at a path: `file`, `directory`, `named pipe`, `socket`, `device`, `broken link` or `` (nothing).

    Nothing is opened: a named pipe would wait for its writer. Raises OSError where permission is missing.
    """
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return "broken link" if path.is_symlink() else ""
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return "broken link"
    for test, kind in (
        (stat.S_ISREG, "file"),
        (stat.S_ISDIR, "directory"),
        (stat.S_ISFIFO, "named pipe"),
        (stat.S_ISSOCK, "socket"),
    ):
        if test(mode):
            return kind
    return "device"
