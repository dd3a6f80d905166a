"""Which document goes where: decided by its text, and no split is ever empty."""

from __future__ import annotations

import random

import numpy as np
import pytest

from data.documents import Documents
from data.splits import divide
from tests.refusals import facts, refusal


def in_memory(documents: list[str], official: list[int] | None = None) -> Documents:
    encoded = [document.encode() for document in documents]
    ends = np.cumsum([len(document) for document in encoded])
    starts = np.concatenate([[0], ends[:-1]])
    splits = None if official is None else np.array(official, dtype=np.uint8)
    return Documents(np.frombuffer(b"".join(encoded), dtype=np.uint8), starts, ends, splits)


def split_texts(documents: Documents, rule: str = "documents") -> dict[str, list[str]]:
    parts = divide(documents, rule, "corpus")
    return {split: [part.bytes_of(i).decode() for i in range(len(part))] for split, part in parts.items()}


def test_the_split_of_a_document_depends_on_its_text_alone() -> None:
    documents = [f"document {i}" for i in range(200)] * 2
    expected = {split: sorted(found) for split, found in split_texts(in_memory(documents)).items()}
    random.Random(5).shuffle(documents)
    assert {split: sorted(found) for split, found in split_texts(in_memory(documents)).items()} == expected
    assert {split: len(found) for split, found in expected.items()} == {"train": 360, "val": 20, "test": 20}


@pytest.mark.parametrize("n", [3, 4, 5, 19, 20, 33])
def test_no_split_is_empty_and_equal_texts_share_one(n: int) -> None:
    found = split_texts(in_memory([f"document {i % n}" for i in range(3 * n)]))
    assert all(found.values())
    assert not set(found["train"]) & set(found["val"])
    assert not set(found["test"]) & set(found["train"] + found["val"])
    assert sum(map(len, found.values())) == 3 * n


def test_too_few_documents_for_three_splits_are_refused() -> None:
    error = refusal(lambda: split_texts(in_memory(["a", "b", "a"])))
    assert error.kind == "too_few"
    assert str(error) == (
        "corpus: 2 different documents cannot make train, val and test: give at least 3, or one document without "
        "separators"
    )


def test_a_corpus_with_two_splits_has_its_val_divided() -> None:
    found = split_texts(in_memory([f"t{i}" for i in range(10)] + [f"v{i % 6}" for i in range(12)], [0] * 10 + [1] * 12))
    assert found["train"] == [f"t{i}" for i in range(10)]
    assert len(found["val"]) == len(found["test"]) == 6
    assert set(found["val"]).isdisjoint(found["test"])


def test_a_corpus_with_three_splits_keeps_them() -> None:
    found = split_texts(in_memory(["a", "b", "c", "a"], [2, 1, 0, 0]))
    assert found == {"train": ["c", "a"], "val": ["b"], "test": ["a"]}


def test_one_document_is_cut_by_characters() -> None:
    text = "".join(chr(0x41 + i % 26) + "é€🐈"[i % 3] for i in range(500))
    found = split_texts(in_memory([text]))
    assert found == {"train": [text[:900]], "val": [text[900:950]], "test": [text[950:]]}
    assert split_texts(in_memory([text]), "nanogpt") == {"train": [text[:900]], "val": [text[900:]]}


@pytest.mark.parametrize(
    ("documents", "rule", "kind", "keys", "message"),
    [
        (
            ["short"],
            "documents",
            "too_short",
            ("val",),
            "corpus: 5 characters are too short a corpus: val would have 0; give more text",
        ),
        (
            ["short"],
            "nanogpt",
            "too_short",
            ("val",),
            "corpus: 5 characters are too short a corpus: val would have 1; give more text",
        ),
        (
            ["a", "b", "c"],
            "nanogpt",
            "many_documents",
            (),
            "corpus: split: nanogpt cuts one document at 90 % of its characters, and this corpus has 3 documents; use "
            "split: documents",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(
    documents: list[str], rule: str, kind: str, keys: tuple[str, ...], message: str
) -> None:
    error = refusal(lambda: split_texts(in_memory(documents), rule))
    assert (facts(error), str(error)) == ((kind, keys, None), message)
