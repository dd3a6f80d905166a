"""Whether the files of a prepared corpus are as they were written.

checksums.json has the size, the sha256 and the modification time of every other file in the folder. A folder is checked
each time it is opened: sizes and times, which takes microseconds; a file with another time is hashed (a second for a
gigabyte), as it may only have been copied. What is whole is recorded with its new time, where that can be written.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from pathlib import Path
from typing import Any

FILE = "checksums.json"


def write(folder: Path) -> None:
    """Write checksums.json, after all other files."""
    _write(folder, {_name(file, folder): _measured(file) for file in _files(folder)})


def damage(folder: Path) -> str:
    """What is wrong with a folder, for a person to read; empty where all is as it was written."""
    try:
        recorded: dict[str, dict[str, Any]] = json.loads((folder / FILE).read_text(encoding="utf-8"))
        times = {}
        for name, before in recorded.items():
            status = (folder / name).stat()
            if status.st_size != before["bytes"]:
                return f"{name} has {status.st_size:,} bytes, it had {before['bytes']:,}"
            if not os.access(folder / name, os.R_OK):
                return f"{name} cannot be read"
            if status.st_mtime_ns != before["mtime_ns"]:
                if _measured(folder / name)["sha256"] != before["sha256"]:
                    return f"{name} has other content"
                times[name] = status.st_mtime_ns
    except FileNotFoundError as error:
        return f"{_name(Path(error.filename), folder)} is missing"
    except OSError as error:
        return f"{_name(Path(error.filename or folder / FILE), folder)}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{FILE} is cut or damaged"
    if times:
        for name, time in times.items():
            recorded[name]["mtime_ns"] = time
        with contextlib.suppress(OSError):  # a cache that is only read: hashed again each time
            _write(folder, recorded)
    return ""


def _write(folder: Path, content: dict[str, dict[str, Any]]) -> None:
    partial = folder / f".{FILE}.{os.getpid()}"
    try:
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(folder / FILE)
    finally:
        partial.unlink(missing_ok=True)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _name(file: Path, folder: Path) -> str:
    return file.relative_to(folder).as_posix() if file.is_relative_to(folder) else str(file)


def _measured(file: Path) -> dict[str, Any]:
    status = file.stat()
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": status.st_size, "sha256": digest, "mtime_ns": status.st_mtime_ns}
