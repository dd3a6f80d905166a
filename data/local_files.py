"""Corpora from files on this machine: plain text, JSON lines, Parquet. A faulty file is a UserError with its place."""

from __future__ import annotations

import codecs
import hashlib
import json
import mmap
import re
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.documents import UNDECIDED, Documents, open_blob, write_documents
from data.errors import UserError, nearest

SEPARATOR = b"<|endoftext|>"  # alone on a line: between documents, as in the TinyStories files
BOM = codecs.BOM_UTF8


def check_file(name: str, path: Path) -> None:
    """UserError unless `path` is a readable, non-empty file. name: the corpus as the user wrote it."""
    if path.is_dir():
        inside = sorted(entry.name for entry in path.iterdir() if entry.is_file())[:3]
        raise UserError(
            f"{name}: {path} is a directory; give one file in it ({', '.join(inside) or 'it has none'}), or "
            f"hf:{path} for a directory that Hugging Face datasets can load",
            kind="is_directory",
        )
    if not path.exists():
        neighbours = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(path.name, neighbours)
        where = hint if hint.startswith("did you mean") else f"looked in {path.parent.absolute()}"
        raise UserError(f"{name}: no such file: {path}; {where}", kind="missing")
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except OSError as error:
        raise UserError(f"{name}: cannot read {path}: {error.strerror}") from None
    if empty:
        raise UserError(f"{name}: {path} is empty; give a file with text in it", kind="empty")


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(name: str, path: Path) -> Documents:
    """The documents of a text file, as byte ranges of it: nothing is copied, line endings are kept.

    Documents are the text between lines `<|endoftext|>`, without the blank lines around it; a file without
    such lines is one document. A byte order mark at the start of the file is left out.
    """
    _check_utf8(name, path)
    blob = open_blob(path)
    starts, stops = array("q"), array("q")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        first = len(BOM) if view[: len(BOM)] == BOM else 0
        separators = list(_separator_lines(view, first))
        if not separators:
            if not re.search(rb"\S", view):
                raise UserError(f"{name}: {path} is blank; give a file with text in it", kind="empty")
            return Documents(blob, np.array([first]), np.array([len(view)]))
        begin = first
        for line_start, line_end in [*separators, (len(view), len(view))]:
            start, stop = begin, line_start
            while start < stop and view[start] in b"\r\n":
                start += 1
            while stop > start and view[stop - 1] in b"\r\n":
                stop -= 1
            if view[start:stop].strip():
                starts.append(start)
                stops.append(stop)
            begin = line_end
    if not starts:
        raise UserError(f"{name}: {path} has separators and no text between them", kind="empty")
    return Documents(blob, np.frombuffer(starts, dtype=np.int64), np.frombuffer(stops, dtype=np.int64))


def _separator_lines(view: mmap.mmap, first: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of the lines that hold only the separator; within a line it is ordinary text."""
    at = view.find(SEPARATOR, first)
    while at != -1:
        end = at + len(SEPARATOR)
        rest = view[end : end + 2]
        if (at == first or view[at - 1] == 0x0A) and (not rest or rest[:1] == b"\n" or rest == b"\r\n"):
            yield at, end
        at = view.find(SEPARATOR, end)


def _check_utf8(name: str, path: Path) -> None:
    """UserError with the place when a file is binary or not UTF-8."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    size = path.stat().st_size
    seen = nuls = lines = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            nuls += chunk.count(0)
            pending = len(decoder.getstate()[0])
            try:
                decoder.decode(chunk, final=seen + len(chunk) >= size)
            except UnicodeDecodeError as error:
                if nuls > 0.1 * len(chunk):
                    break
                at = seen - pending + error.start
                line = lines + chunk[: max(0, error.start - pending)].count(b"\n") + 1
                raise UserError(
                    f"{name}: {path} is not UTF-8 text: byte {at} (line {line}) is 0x{error.object[error.start]:02X}; "
                    "convert it, for example with iconv -t UTF-8",
                    kind="not_utf8",
                    line=line,
                ) from None
            seen += len(chunk)
            lines += chunk.count(b"\n")
        else:
            if nuls <= 0.1 * seen:
                return
    problem = f"{name}: {path} looks binary (or UTF-16): it is full of NUL bytes; give UTF-8 text"
    raise UserError(problem, kind="binary")


def read_jsonl(name: str, path: Path, field: str | None, scratch: Path) -> Documents:
    """One document per line: the string under `field` (default: text) of a JSON object."""
    field = field or "text"
    rows = ((text, UNDECIDED) for text in _json_lines(name, path, field))
    return write_documents(rows, scratch / "documents.txt", name, "line", f"field {field}")


def _json_lines(name: str, path: Path, field: str) -> Iterator[Any]:
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(BOM) if number == 1 else line
            if not line.strip():
                yield None
                continue
            try:
                record = json.loads(line.decode("utf-8"))
            except ValueError as error:  # not JSON, or not UTF-8
                problem = f"{name}: line {number} is not JSON in UTF-8: {error}"
                raise UserError(problem, kind="not_json", line=number) from None
            if not isinstance(record, dict):
                problem = f"{name}: line {number} is a JSON {type(record).__name__}, not an object with fields"
                raise UserError(problem, kind="no_object", line=number)
            if field not in record:
                problem = f"{name}: line {number} has no field {field}; {nearest(field, record)}"
                raise UserError(problem, kind="unknown", keys=field, line=number)
            yield record[field]


def read_parquet(name: str, path: Path, field: str | None, scratch: Path) -> Documents:
    """One document per row: the string column `field` (default: text)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    field = field or "text"
    try:
        with pq.ParquetFile(path, memory_map=True) as table:
            columns = table.schema_arrow.names
            if field not in columns:
                problem = f"{name}: no field {field}; {nearest(field, columns)}"
                raise UserError(problem, kind="unknown", keys=field)
            batches = table.iter_batches(batch_size=1000, columns=[field])
            rows = ((text, UNDECIDED) for batch in batches for text in batch.column(0).to_pylist())
            return write_documents(rows, scratch / "documents.txt", name, "row", f"field {field}")
    except pa.ArrowInvalid as error:
        raise UserError(f"{name}: {path} is not a Parquet file: {error}", kind="not_parquet") from None
