"""Paths as users write them: text that can be no path is a UserError of one line, not an exception of Python's."""

from __future__ import annotations

import errno
import os
import shlex
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


def absolute(path: Path | str) -> Path:
    """The path of a folder to write in, from the root, links followed; it need not exist.

    Raises UserError as `at_home`, and for a name that is not UTF-8: no record of it could be written down.
    """
    resolved = at_home(path).resolve()
    try:
        str(resolved).encode()
    except UnicodeEncodeError:
        raise UserError(
            f"{resolved}: its name is not UTF-8; rename it, or use another folder", kind="not_utf8"
        ) from None
    return resolved


def working_directory() -> Path:
    """The working directory; by the name that the shell gave it, where it was removed and made again under us, as an
    agent of Ray may do with a job's."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return Path(os.environ.get("PWD", "."))


def quoted(path: Path) -> str:
    """The path as one word of a command, for a line that is to be pasted into a shell.

    >>> print(quoted(Path("/my runs/t")))
    '/my runs/t'
    """
    return shlex.quote(str(path))


def is_directory(path: Path) -> bool:
    """The same for a directory."""
    try:
        return path.is_dir()
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
