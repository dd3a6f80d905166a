"""Whether a file can be a corpus at all, seen before it is read: its kind, its permission, its first bytes."""

from __future__ import annotations

import glob
import itertools
import os
from pathlib import Path

from data.errors import UserError, nearest
from data.paths import entry

_MOST_NEIGHBOURS = 5000  # names in a folder that a missing one is compared with: a millisecond for each hundred

# first bytes of compressed files -> (their format, a program that unpacks them)
_COMPRESSED = {
    b"\x1f\x8b": ("gzip", "gunzip -k"),
    b"\x28\xb5\x2f\xfd": ("Zstandard", "unzstd"),
    b"\xfd7zXZ\x00": ("xz", "unxz -k"),
    b"BZh91AY&SY": ("bzip2", "bunzip2 -k"),
    b"\x04\x22\x4d\x18": ("LZ4", "unlz4"),
    b"PK\x03\x04": ("zip", "unzip"),
    b"7z\xbc\xaf\x27\x1c": ("7z", "7z x"),
}
# first bytes of other files that are no text -> (what they are, what to do)
_FORMATS = {
    b"PAR1\x15": ("a Parquet file", "write parquet:{path}#field"),
    b"ARROW1\x00\x00": (
        "an Arrow file",
        "give the folder that save_to_disk wrote as hf:FOLDER, or write it as Parquet",
    ),
    b"%PDF-": ("a PDF", "give its text, for example from pdftotext"),
    b"SQLite format 3\x00": ("an SQLite database", "write the texts of a table as JSON lines"),
    b"\x93NUMPY": ("a NumPy array", "give the text that it was made from"),
    b"\xff\xfe": ("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 {path}"),
    b"\xfe\xff": ("UTF-16 text", "convert it: iconv -f UTF-16 -t UTF-8 {path}"),
}


def check_file(name: str, path: Path, kind: str = "text") -> None:
    """UserError unless `path` is a readable, non-empty file that can be of that kind of corpus.

    name: the corpus as the user wrote it.
    """
    try:
        there = entry(path)
        if there != "file":
            raise _no_file(name, path, there)
        with path.open("rb") as file:
            head = file.read(16)
    except OSError as error:
        raise UserError(f"{name}: cannot read {path}: {error.strerror}", kind="cannot_read") from None
    if not head:
        raise UserError(f"{name}: {path} is empty; give a file with text in it", kind="empty")
    for signature, (format_, program) in _COMPRESSED.items():
        if head.startswith(signature):
            problem = f"{path} is compressed with {format_}; unpack it ({program} {path}) and name what comes out"
            raise UserError(f"{name}: {problem}", kind="compressed")
    for signature, (what, advice) in _FORMATS.items() if kind != "parquet" else ():
        if head.startswith(signature):
            problem = f"{path} is {what}, not UTF-8 text; {advice.format(path=path)}"
            raise UserError(f"{name}: {problem}", kind="other_format")


def _no_file(name: str, path: Path, there: str) -> UserError:
    """The error for what is not a regular file; there: as of `paths.entry`."""
    if there == "directory":
        inside = sorted(item.name for item in path.iterdir() if item.is_file())[:3]
        return UserError(
            f"{name}: {path} is a directory; give one file in it ({', '.join(inside) or 'it has none'}), or "
            f"hf:{path} for a directory that Hugging Face datasets can load",
            kind="is_directory",
        )
    if there == "broken link":
        return UserError(f"{name}: {path} is a link to {path.readlink()}, which is not there", kind="missing")
    if there:
        problem = f"{path} is a {there}, and a corpus is read more than once; write it to a file and name that"
        return UserError(f"{name}: {problem}", kind="no_file")
    # Path.glob raises ValueError for some of these
    matches = list(itertools.islice(glob.iglob(str(path)), 1)) if glob.has_magic(str(path)) else []  # noqa: PTH207
    if matches:
        return UserError(
            f"{name}: {path} is a pattern, for example of {matches[0]}; a corpus is one file: join them, with a line "
            "<|endoftext|> between documents, or give their directory as hf:DIRECTORY",
            kind="pattern",
        )
    return UserError(f"{name}: no such file: {path}; {_near(path)}", kind="missing")


def _near(path: Path) -> str:
    """Where a missing file was looked for, or the name that was meant."""
    if entry(path.parent) == "directory":
        with os.scandir(path.parent) as items:
            names = [item.name for item in itertools.islice(items, _MOST_NEIGHBOURS)]
        hint = nearest(path.name, names)
        if hint.startswith("did you mean"):
            return hint
    return f"looked in {path.parent.absolute()}"
