"""`split: mainrun`: titles in their order, 90 to 10, whole, and as long as the task's text."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data import titles, tokenizers
from data.dataset import Dataset, Split
from data.prepare import load_test, prepare
from tests import made_up
from tests.refusals import refusal
from tests.test_data_splits import in_memory


def texts_of(dataset: Dataset, split: Split) -> list[str]:
    tokenizer = tokenizers.load(dataset.path)
    ids = [split.tokens[a : b - 1] for a, b in zip(split.doc_starts, split.doc_starts[1:], strict=False)]
    return [tokenizer.decode(part) for part in ids]


@pytest.mark.parametrize("tokenizer", ["char", "bpe:300"])
def test_titles_come_back_in_order_and_to_the_byte_from_their_tokens(tmp_path: Path, tokenizer: str) -> None:
    made = made_up.titles()
    (tmp_path / "titles.txt").write_text("\n".join([*made[:7], "  ", *made[7:]]) + "\r\n\n")
    data = prepare(f"text:{tmp_path / 'titles.txt'}", tokenizer, "mainrun", tmp_path / "cache")
    stripped = [title.strip() for title in made]
    assert texts_of(data, data.train) == stripped[:360]
    assert texts_of(data, data.val) == stripped[360:]
    assert data.meta["splits"]["val"]["text_length"] == len("<eos>".join(stripped[360:]) + "<eos>")
    error = refusal(lambda: load_test(data.path))
    assert (error.kind, "split: mainrun" in str(error)) == ("no_test_split", True)


def test_lines_of_a_text_and_rows_of_a_jsonl_are_the_same_titles(tmp_path: Path) -> None:
    made = made_up.titles(60)
    (tmp_path / "a.txt").write_text("\n".join(made))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"title": title}) + "\n" for title in made))
    lines, rows = (
        prepare(f"{kind}:{tmp_path / name}", "char", "mainrun", tmp_path / "cache")
        for kind, name in (("text", "a.txt"), ("jsonl", "a.jsonl#title"))
    )
    assert lines.hash == rows.hash
    assert lines.meta["splits"] == rows.meta["splits"]


def test_a_corpus_with_a_validation_split_of_its_own_keeps_it() -> None:
    found = titles.divide(in_memory(["a", "b", "c", "d"], [0, 1, 0, 3]), "corpus")
    assert [len(found[name]) for name in ("train", "val")] == [3, 1]
    assert found["val"].bytes_of(0) == b"b"


@pytest.mark.parametrize(
    ("documents", "official", "kind", "message"),
    [
        (
            ["one title\n \n"],
            None,
            "too_few",
            "corpus: split: mainrun needs titles to train on and to validate, and there are 1: give at least 2 "
            "documents, or a text with a title on each line",
        ),
        (
            ["a", "b", "c"],
            [0, 1, 2],
            "test_split",
            "corpus: split: mainrun has no test split, and this corpus has one; use split: documents",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(
    documents: list[str], official: list[int] | None, kind: str, message: str
) -> None:
    error = refusal(lambda: titles.divide(titles.titles_of(in_memory(documents, official)), "corpus"))
    assert (error.kind, str(error)) == (kind, message)


def test_characters_are_counted_not_bytes() -> None:
    assert titles.characters(np.frombuffer("aé€🐈".encode(), dtype=np.uint8)) == 4
