"""`split: mainrun`: titles as in the Mainrun task: stripped, in order, the first 90 % for train, the rest for val.

Where the task joins titles by the text `<eos>`, the token streams here have the class EOT, which no tokenizer can split
and which a title that contains `<eos>` does not produce. The task's text begins with its first title, a stream here
with an EOT. Duplicates are kept: a title that was posted twice may be in both splits, as in the task.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from data.documents import TEST, VAL, Documents
from data.errors import UserError

TRAIN_SHARE = 0.9  # 1 - val_frac of the task
EOS_CHARACTERS = len("<eos>")  # what the end of a title adds to the length of the task's text
_STEP = 1 << 24  # bytes counted at a time


def titles_of(documents: Documents) -> Documents:
    """The titles of a corpus: its documents, or the lines of its only document; stripped, without blank ones."""
    ranges = zip(documents.starts.tolist(), documents.stops.tolist(), strict=True)
    if len(documents) == 1:
        start, stop = next(ranges)
        ends = start + np.flatnonzero(documents.blob[start:stop] == ord("\n"))
        lines = zip([start, *(ends + 1).tolist()], [*ends.tolist(), stop], strict=True)
        stripped = [_strip(documents.blob, *line) for line in lines]
        documents = replace(documents, official=None, floor_nll=None)
        rows = np.zeros(len(stripped), dtype=np.int64)
    else:
        stripped = [_strip(documents.blob, *title) for title in ranges]
        rows = np.arange(len(stripped))
    starts, stops = np.array(stripped, dtype=np.int64).T
    kept = stops > starts
    return replace(documents.take(rows[kept]), starts=starts[kept], stops=stops[kept])


def _strip(blob: np.ndarray, start: int, stop: int) -> tuple[int, int]:
    """The byte range without the white space at its ends."""
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
        problem = f"{name}: split: mainrun has no test split, and this corpus has one; use split: documents"
        raise UserError(problem, kind="test_split")
    else:
        val = documents.official == VAL
    if val.all() or not val.any():
        raise UserError(
            f"{name}: split: mainrun needs titles to train on and to validate, and there are {n}: give at least 2 "
            "documents, or a text with a title on each line",
            kind="too_few",
        )
    return {"train": documents.take(np.flatnonzero(~val)), "val": documents.take(np.flatnonzero(val))}


def characters(blob: np.ndarray) -> int:
    """Characters in UTF-8 bytes: all bytes but the continuation bytes 10xxxxxx."""
    return sum(int(np.count_nonzero((blob[i : i + _STEP] & 0xC0) != 0x80)) for i in range(0, len(blob), _STEP))


def text_length(documents: Documents) -> int:
    """Characters of the titles joined by `<eos>`, with one after the last: the divisor of the task's loss."""
    ranges = zip(documents.starts.tolist(), documents.stops.tolist(), strict=True)
    return sum(characters(documents.blob[start:stop]) + EOS_CHARACTERS for start, stop in ranges)
