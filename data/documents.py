"""The texts of a corpus on disk: one UTF-8 file and the byte range of each document.

A corpus may have millions of documents, so they are not kept as a list of strings: the file is memory-mapped, the
offsets are arrays, and a document is decoded only when it is needed.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import UserError

TRAIN, VAL, TEST, UNDECIDED = 0, 1, 2, 3  # what `Documents.official` holds


@dataclass(frozen=True)
class Documents:
    """Documents in a file, in the order of the corpus.

    blob: (bytes of the file,) uint8, memory-mapped.
    starts, stops: (D,) int64, byte ranges of the documents in `blob`.
    official: (D,) uint8, the split that the corpus itself puts each document in; None if it has no splits.
    floor_nll: (D,) float64, nats: each document's exact negative log-likelihood; None where it is unknown.
    facts: recorded in meta.json beside the corpus (revision, licence, rows left out).
    """

    blob: np.ndarray
    starts: np.ndarray
    stops: np.ndarray
    official: np.ndarray | None = None
    floor_nll: np.ndarray | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_bytes(self) -> int:
        return int((self.stops - self.starts).sum())

    def bytes_of(self, i: int) -> bytes:
        return self.blob[self.starts[i] : self.stops[i]].tobytes()

    def take(self, rows: np.ndarray) -> Documents:
        """Some of the documents, by index: rows (n,) int64, whose order is kept."""
        pick = lambda values: None if values is None else values[rows]
        return replace(
            self,
            starts=self.starts[rows],
            stops=self.stops[rows],
            official=pick(self.official),
            floor_nll=pick(self.floor_nll),
        )


def open_blob(path: Path) -> np.ndarray:
    """The bytes of a file, memory-mapped. (n,) uint8; the file must not be empty."""
    return np.asarray(np.memmap(path, dtype=np.uint8, mode="r"))


def write_documents(rows: Iterable[tuple[Any, int]], path: Path, name: str, unit: str, field_name: str) -> Documents:
    """Write texts to the file `path`, one after the other, and return their byte ranges.

    rows: (text, official split) pairs; None and blank texts are left out and counted.
    name, unit, field_name: how an error names the place (`jsonl:a.jsonl#text: line 7: ...`).
    Raises UserError for a value that is not text, for text that UTF-8 cannot encode (lone surrogates) and when no
        document is left.
    """
    offsets, official = array("q", [0]), bytearray()
    skipped = 0
    with path.open("wb") as file:
        for number, (text, split) in enumerate(rows, start=1):
            if text is None or (isinstance(text, str) and not text.strip()):
                skipped += 1
                continue
            if not isinstance(text, str):
                problem = f"{name}: {unit} {number}: {field_name} holds {type(text).__name__}, not text"
                raise UserError(problem, kind="not_text", line=number)
            encoded = encode_utf8(text, f"{name}: {unit} {number}", number)
            file.write(encoded)
            offsets.append(offsets[-1] + len(encoded))
            official.append(split)
    if not official:
        problem = f"{name}: no documents with text in it ({skipped} empty {unit}s); nothing to train on"
        raise UserError(problem, kind="empty")
    ends = np.frombuffer(offsets, dtype=np.int64)
    splits = np.frombuffer(bytes(official), dtype=np.uint8)
    facts = {"empty_left_out": skipped} if skipped else {}
    return Documents(
        blob=open_blob(path),
        starts=ends[:-1],
        stops=ends[1:],
        official=None if (splits == UNDECIDED).all() else splits,
        facts=facts,
    )


def encode_utf8(text: str, place: str, line: int | None = None) -> bytes:
    """UTF-8 bytes of a text; UserError with the character offset for lone surrogates, which no tokenizer can keep.

    line: of the file, for the error.
    """
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(
            f"{place}: lone surrogate U+{ord(text[error.start]):04X} at character {error.start} cannot be encoded: "
            "repair or remove it (it is half of a character)",
            kind="surrogate",
            line=line,
        ) from None


def pieces(blob: np.ndarray, start: int, stop: int, size: int = 1 << 20) -> Iterator[tuple[int, int]]:
    """Cut one long document into byte ranges of about `size` that can be tokenised one by one.

    A cut is always after a visible character and before a space or newline. Every pre-token of GPT-2's pattern ends
    there, so that the tokens of the pieces are those of the whole document. Text without such a place is not cut.
    """
    at, reach = start, start + size
    while reach < stop:
        low = max(at, reach - (1 << 16))
        while blob[low] & 0xC0 == 0x80:  # never begin in the middle of a character
            low += 1
        text = blob[low:reach].tobytes().decode("utf-8", errors="ignore")
        ends = [match.end() for match in re.finditer(r"\S(?=[ \n])", text)]
        if ends:
            cut = low + len(text[: ends[-1]].encode("utf-8"))
            yield at, cut
            at = cut
            reach = at + size
        else:
            reach += size
    yield at, stop
