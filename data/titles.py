"""Titles as the Mainrun task takes them: each stripped, in their order, the first 90 % to train on, the last 10 % to
validate (`split: mainrun`).

Where the task joins titles by `<eos>`, the token streams here have the class EOT: no tokenizer can split it, and a
title that says `<eos>` does not end. The task's text begins with its first title, a stream of ours with an EOT.
Nothing is looked for twice: a title that was posted again may stand on both sides, as in the task.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.documents import TEST, VAL, Documents
from data.errors import UserError

TRAIN_SHARE = 0.9  # 1 - val_frac of the task
EOS_CHARACTERS = len("<eos>")  # what the end of a title adds to the length of the task's text
_STEP = 1 << 24  # bytes looked at together


def of(documents: Documents) -> Documents:
    """The titles of a corpus: its documents, or the lines of its only one; stripped, blank ones left out."""
    ranges = zip(documents.starts.tolist(), documents.stops.tolist(), strict=True)
    if len(documents) == 1:
        start, stop = next(ranges)
        ends = start + np.flatnonzero(documents.blob[start:stop] == ord("\n"))
        lines = zip([start, *(ends + 1).tolist()], [*ends.tolist(), stop], strict=True)
        found = [_stripped(documents.blob, *line) for line in lines]
        documents = replace(documents, official=None, floor_nll=None)
        rows = np.zeros(len(found), dtype=np.int64)
    else:
        found = [_stripped(documents.blob, *one) for one in ranges]
        rows = np.arange(len(found))
    starts, stops = np.array(found, dtype=np.int64).T
    kept = stops > starts
    return replace(documents.take(rows[kept]), starts=starts[kept], stops=stops[kept])


def _stripped(blob: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    text = blob[start:stop].tobytes().decode("utf-8")
    start += len(text.encode("utf-8")) - len(text.lstrip().encode("utf-8"))
    return start, start + len(text.strip().encode("utf-8"))


def divide(documents: Documents, name: str) -> dict[str, Documents]:
    """train and val, in the order of the corpus: its own splits (as `hackernews` has them), else by place.

    Raises UserError for fewer than two titles, and for a corpus with a test split.
    """
    n = len(documents)
    if documents.official is None:
        val = np.arange(n) >= int(n * TRAIN_SHARE)
    elif (documents.official == TEST).any():
        raise UserError(f"{name}: split: mainrun has no test split, and this corpus has one; use split: documents")
    else:
        val = documents.official == VAL
    if val.all() or not val.any():
        raise UserError(
            f"{name}: split: mainrun needs titles to train on and to validate, and there are {n}: give at least 2 "
            "documents, or a text with a title on each line"
        )
    return {"train": documents.take(np.flatnonzero(~val)), "val": documents.take(np.flatnonzero(val))}


def characters(blob: np.ndarray) -> int:
    """Characters in UTF-8 bytes: all bytes but the continuation bytes 10xxxxxx."""
    return sum(int(np.count_nonzero((blob[i : i + _STEP] & 0xC0) != 0x80)) for i in range(0, len(blob), _STEP))


def text_length(documents: Documents) -> int:
    """Characters of the titles joined by `<eos>`, with one after the last: what the task divides by."""
    ranges = zip(documents.starts.tolist(), documents.stops.tolist(), strict=True)
    return sum(characters(documents.blob[start:stop]) + EOS_CHARACTERS for start, stop in ranges)
