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

END = "<|endoftext|>"  # between documents, as in the TinyStories files
SEPARATOR = END.encode()
DIVISION = "lines, else within"  # the rule of `read_text`; another rule makes other documents of the same file
BOM = codecs.BOM_UTF8


def sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_text(name: str, path: Path) -> Documents:
    """The documents of a text file, as byte ranges of it: nothing is copied, line endings are kept.

    Documents are the text between lines `<|endoftext|>`, which may have blanks around it, without the blank lines
    around each; within a line it is then ordinary text. A file that has it only within lines is divided there, if that
    gives three documents or more: others write `one<|endoftext|>two`. A file without it is one document.
    `Documents.facts` has a remark where it stands within lines. A byte order mark at the start of the file is left out.
    """
    _check_utf8(name, path)
    blob = open_blob(path)
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        first = len(BOM) if view[: len(BOM)] == BOM else 0
        lines, inside = _separators(view, first)
        if not lines and not inside and not re.search(rb"\S", view):
            raise UserError(f"{name}: {path} is blank; give a file with text in it", kind="empty")
        ranges = _between(view, first, lines or inside)
        whole = not lines and 0 < len(ranges) < 2 * 3  # the three splits need a document each
        if whole:
            ranges = array("q", [first, len(view)])
    if not ranges:
        raise UserError(f"{name}: {path} has separators and no text between them", kind="empty")
    starts, stops = np.frombuffer(ranges, dtype=np.int64).reshape(-1, 2).T
    facts = {"remark": _remark(len(inside) // 2, len(starts), bool(lines) or whole)} if inside else {}
    return Documents(blob, starts, stops, facts=facts)


def _remark(n: int, n_documents: int, stay: bool) -> str:
    """What became of n separators within lines."""
    if stay:
        return f"{n:,} {END} within lines stay text; alone on a line it divides documents"
    return f"divided at {n:,} {END} within lines, as none is alone on a line: {n_documents:,} documents"


def _between(view: mmap.mmap, first: int, separators: array[int]) -> array[int]:
    """Byte ranges of the texts between separators that are not blank, each as start, stop."""
    ranges = array("q")
    begin = first
    for separator_start, separator_end in zip(
        [*separators[::2], len(view)], [*separators[1::2], len(view)], strict=True
    ):
        start, stop = begin, separator_start
        while start < stop and view[start] in b"\r\n":
            start += 1
        while stop > start and view[stop - 1] in b"\r\n":
            stop -= 1
        if view[start:stop].strip():
            ranges.extend((start, stop))
        begin = separator_end
    return ranges


def _separators(view: mmap.mmap, first: int) -> tuple[array[int], array[int]]:
    """Byte ranges (start, end, start, end, ...) of the separators alone on a line, with the blanks beside them, and of
    those within lines."""
    lines, inside = array("q"), array("q")
    at = view.find(SEPARATOR, first)
    while at != -1:
        start, end = at, at + len(SEPARATOR)
        while start > first and view[start - 1] in b" \t":
            start -= 1
        while end < len(view) and view[end] in b" \t":
            end += 1
        if (start == first or view[start - 1] in b"\r\n") and (end == len(view) or view[end] in b"\r\n"):
            lines.extend((start, end))
        else:
            inside.extend((at, at + len(SEPARATOR)))
        at = view.find(SEPARATOR, at + len(SEPARATOR))
    return lines, inside


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
            record = _object(name, path, line, number)
            if field not in record:
                problem = f"{name}: line {number} has no field {field}; {nearest(field, record)}"
                raise UserError(problem, kind="unknown", keys=field, line=number)
            yield record[field]


def _object(name: str, path: Path, line: bytes, number: int) -> dict[str, Any]:
    """The JSON object of a line. Raises UserError for anything else."""
    rule = "." if line.lstrip().startswith(b"{") else "'.[]'"
    hint = f"; one object per line is read: jq -c {rule} {path}"
    if number == 1 and line.strip() in (b"{", b"[", b"[{"):
        raise UserError(f"{name}: line 1 begins JSON that goes on over more lines{hint}", kind="not_json", line=1)
    try:
        record = json.loads(line.decode("utf-8").rstrip("\r\n"), parse_int=_whole_number)
    except UnicodeDecodeError as error:
        problem = f"line {number} is not UTF-8: byte {error.start + 1} of it is 0x{line[error.start]:02X}"
        raise UserError(f"{name}: {problem}; convert it or remove it", kind="not_utf8", line=number) from None
    except json.JSONDecodeError as error:
        problem = f"{name}: line {number} is not JSON: {error.msg}, at character {error.colno}"
        raise UserError(problem, kind="not_json", line=number) from None
    except RecursionError:
        problem = f"{name}: line {number} is nested too deeply; remove it"
        raise UserError(problem, kind="too_deep", line=number) from None
    if not isinstance(record, dict):
        problem = f"{name}: line {number} is a JSON {type(record).__name__}, not an object with fields"
        raise UserError(problem + (hint if isinstance(record, list) else ""), kind="no_object", line=number)
    return record


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= 4000 else float(digits)  # Python reads no longer one


def read_parquet(name: str, path: Path, field: str | None, scratch: Path) -> Documents:
    """One document per row: the string column `field` (default: text)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    field = field or "text"
    try:
        table = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except (pa.ArrowException, OSError) as error:
        problem = f"{name}: {path} is not a whole Parquet file: {_first_line(error)}"
        raise UserError(problem, kind="not_parquet") from None
    with table:
        schema = table.schema_arrow
        texts = [column.name for column in schema if _holds_text(column.type)]
        if field not in schema.names:
            problem = f"{name}: no field {field}; {nearest(field, texts or schema.names)}"
            raise UserError(problem, kind="unknown", keys=field)
        if field not in texts and not pa.types.is_null(schema.field(field).type):
            problem = f"{name}: field {field} is {schema.field(field).type}, not text; text is in: "
            raise UserError(problem + (", ".join(texts) or "no field"), kind="not_text", keys=field)
        rows = ((text, UNDECIDED) for text in _parquet_rows(name, path, table, field))
        return write_documents(rows, scratch / "documents.txt", name, "row", f"field {field}")


def _holds_text(kind: Any) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _parquet_rows(name: str, path: Path, table: Any, field: str) -> Iterator[Any]:
    """The values of a column. Raises UserError where a page of the file is damaged."""
    import pyarrow as pa

    batches, number = table.iter_batches(batch_size=1000, columns=[field]), 0
    while True:
        try:
            values = next(batches).column(0).to_pylist()
        except StopIteration:
            return
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            problem = f"{path} is damaged after row {number:,}: {_first_line(error)}; copy or write it again"
            raise UserError(f"{name}: {problem}", kind="damaged") from None
        yield from values
        number += len(values)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
