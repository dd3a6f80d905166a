"""Divides a corpus into train, val and test by a hash of each document's text, not by its position.

Documents are ranked by that hash. Equal texts therefore share a split, a corpus is split in the same way on every
machine, and no split is empty.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from data import titles
from data.documents import TEST, TRAIN, UNDECIDED, VAL, Documents
from data.errors import UserError, nearest

SPLITS = ("train", "val", "test")
HELD_OUT = 0.05  # of the documents, for val and again for test

# `documents`: three splits at document boundaries; `nanogpt`: the first 90 % of the characters and the last 10 %;
# `mainrun`: the first 90 % of the titles and the last 10 %, in their order (see data.titles)
RULES = ("documents", "nanogpt", "mainrun")


def check_rule(rule: str) -> None:
    """Raises UserError for a name that is not among `RULES`."""
    if rule not in RULES:
        raise UserError(f"split: {rule} is not known; {nearest(rule, RULES)}", kind="unknown", keys=rule)


def divide(documents: Documents, rule: str, name: str) -> dict[str, Documents]:
    """The splits of a corpus: train, val and test, or train and val for the rules `nanogpt` and `mainrun`.

    Raises UserError when there is too little text for that many splits.
    """
    if rule == "nanogpt":
        if len(documents) > 1:
            raise UserError(
                f"{name}: split: nanogpt cuts one document at 90 % of its characters, and this corpus has "
                f"{len(documents):,} documents; use split: documents",
                kind="many_documents",
            )
        return _contiguous(documents, {"train": 0.9, "val": 1.0}, name)
    if rule == "mainrun":
        return titles.divide(documents, name)
    if len(documents) == 1:
        return _contiguous(documents, {"train": 0.9, "val": 0.95, "test": 1.0}, name)
    labels = _labels(documents, name)
    return {split: documents.take(np.flatnonzero(labels == i)) for i, split in enumerate(SPLITS)}


def _labels(documents: Documents, name: str) -> np.ndarray:
    """(D,) uint8: the split of every document."""
    official = documents.official
    if official is None:
        hashes = _hashes(documents, np.arange(len(documents)))
        distinct = np.unique(hashes)
        if len(distinct) < 3:
            raise UserError(
                f"{name}: {len(distinct)} different documents cannot make train, val and test: give at least 3, or "
                "one document without separators",
                kind="too_few",
            )
        n = max(1, round(HELD_OUT * len(distinct)))
        labels = np.full(len(documents), TRAIN, dtype=np.uint8)
        labels[hashes < distinct[2 * n]] = TEST
        labels[hashes < distinct[n]] = VAL
        return labels
    labels = official.copy()
    labels[labels == UNDECIDED] = TRAIN
    if not (labels == TEST).any():
        held_out = np.flatnonzero(labels == VAL)
        hashes = _hashes(documents, held_out)
        distinct = np.unique(hashes)
        if len(distinct) < 2:
            raise UserError(
                f"{name}: its validation split has {len(distinct)} different documents, and val and test need one each",
                kind="too_few",
            )
        labels[held_out[hashes >= distinct[len(distinct) // 2]]] = TEST
    for i, split in enumerate(SPLITS):
        if not (labels == i).any():
            raise UserError(f"{name}: its {split} split is empty", kind="empty", keys=split)
    return labels


def _hashes(documents: Documents, rows: np.ndarray) -> np.ndarray:
    """(n,) uint64. 64 bits suffice: a collision only puts two documents into the same split."""
    digests = (hashlib.blake2b(documents.bytes_of(i), digest_size=8).digest() for i in rows)
    return np.frombuffer(b"".join(digests), dtype="<u8")


def _contiguous(documents: Documents, ends: dict[str, float], name: str) -> dict[str, Documents]:
    """Cut a single document at fractions of its characters, rounded down as nanoGPT does."""
    start, stop = int(documents.starts[0]), int(documents.stops[0])
    n = titles.characters(documents.blob[start:stop])
    limits = {split: int(n * end) for split, end in ends.items()}
    result, begin = {}, start
    previous = 0
    for split, limit in limits.items():
        if limit - previous < 2:
            problem = f"{n} characters are too short a corpus: {split} would have {limit - previous}; give more text"
            raise UserError(f"{name}: {problem}", kind="too_short", keys=split)
        end = stop if limit == n else start + _byte_of_character(documents.blob[start:stop], limit)
        result[split] = replace(documents, starts=np.array([begin]), stops=np.array([end]))
        begin, previous = end, limit
    return result


_STEP = 1 << 24  # bytes searched at a time


def _byte_of_character(blob: np.ndarray, index: int) -> int:
    """The offset of the first byte of character `index`."""
    seen = 0
    for i in range(0, len(blob), _STEP):
        begins = np.flatnonzero((blob[i : i + _STEP] & 0xC0) != 0x80)
        if index < seen + len(begins):
            return i + int(begins[index - seen])
        seen += len(begins)
    return len(blob)
