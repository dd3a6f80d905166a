"""A corpus that is code of the user's own: its forms, its cache, its refusals, and a training run on it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from data import corpora
from data.dataset import Dataset
from data.errors import UserError
from data.licences import terms
from data.prepare import load_test, open_dataset, prepare
from tests import tiny
from tests.refusals import facts, refusal

STORIES = "[f'A story of {i} words.' for i in range(40)]"
SPLITS = "{'train': ['one', 'two'], 'val': ['three'], 'test': ['four']}"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory of its own, with `sys.path` and the user's modules as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("my_corpus")]:
        del sys.modules[name]


def write(folder: Path, source: str, name: str = "my_corpus") -> None:
    (folder / f"{name}.py").write_text(source)


def prepared(name: str = "my_corpus:Mine", allow_code: bool = True, split: str = "documents") -> Dataset:
    return prepare(name, "char", split, cache=Path("cache"), allow_code=allow_code)


def refused(name: str = "my_corpus:Mine", allow_code: bool = True) -> UserError:
    error = refusal(lambda: prepared(name, allow_code))
    assert [path.name for path in Path("cache").glob("own-*")] == []  # nothing half-written
    assert name in str(error)
    return error


@pytest.mark.parametrize(
    "source",
    [
        f"Mine = {STORIES}",
        f"Mine = tuple({STORIES})",
        f"def Mine():\n    yield from {STORIES}",
        f"def Mine():\n    return {STORIES}",
        f"class Mine:\n    def __iter__(self):\n        return iter({STORIES})",
        f"class Stories:\n    def __call__(self):\n        return {STORIES}\nMine = Stories()",
    ],
)
def test_every_form_gives_the_documents_of_the_same_text_file(source: str, here: Path) -> None:
    write(here, source)
    (here / "a.txt").write_text("\n<|endoftext|>\n".join(f"A story of {i} words." for i in range(40)))
    own, file = prepared(), prepare("text:a.txt", "char", cache=Path("cache"))
    assert own.hash == file.hash
    assert own.meta["splits"] == file.meta["splits"]


def test_splits_of_its_own_are_kept(here: Path) -> None:
    write(here, f"Mine = {SPLITS}\ndef two():\n    return {{'train': ['a', 'b'], 'val': iter('cdef')}}")
    assert {name: part["documents"] for name, part in prepared().meta["splits"].items()} == {
        "train": 2,
        "val": 1,
        "test": 1,
    }
    halves = prepared("my_corpus:two").meta["splits"]  # val is divided between val and test
    assert {name: part["documents"] for name, part in halves.items()} == {"train": 2, "val": 2, "test": 2}


def test_changed_code_is_read_anew_and_the_digest_is_noted(here: Path) -> None:
    write(here, f"Mine = {STORIES}")
    first = prepared()
    write(here, f"Mine = {STORIES.replace('story', 'tales')}")
    second = prepared()
    assert first.path != second.path
    assert first.hash != second.hash
    assert first.meta["source_sha256"] != second.meta["source_sha256"]
    write(here, f"Mine = {STORIES}  # and a comment")
    third = prepared()
    assert third.path not in (first.path, second.path)
    assert third.hash == first.hash  # equal text, equal numbers


def test_what_is_in_the_cache_is_read_without_running_anything(here: Path) -> None:
    write(here, f"from pathlib import Path\nPath('ran').touch()\nMine = {STORIES}")
    assert refused(allow_code=False).kind == "not_allowed"
    assert not (here / "ran").exists()
    first = prepared()
    (here / "ran").unlink()
    del sys.modules["my_corpus"]
    assert prepared(allow_code=False).hash == first.hash
    assert load_test(open_dataset(first.path).path).n_docs == 2
    assert not (here / "ran").exists()


def test_a_tiny_run_trains_on_it(here: Path) -> None:
    write(here, "Mine = [f'A story of {i} words, and of more words.' * 9 for i in range(40)]")
    data = prepared()
    config = tiny.config(corpus="my_corpus:Mine")
    result, reports = tiny.run(config, data=data)
    assert result.status == "completed"
    assert reports[-1].metrics["val_loss"] < reports[0].metrics["val_loss"]
    assert "user's own code" in terms(config.corpus, data.meta).text


@pytest.mark.parametrize(
    ("source", "kind", "keys", "line"),
    [
        ("Mine = 3", "no_documents", (), None),
        ("Mine = 'one text'", "no_documents", (), None),
        ("Mine = ['a', 3]", "not_text", (), 2),
        ("Mine = ['a', b'b']", "not_text", (), 2),
        ("Mine = ['a', '\\ud83d']", "surrogate", (), 2),
        ("Mine = []", "empty", (), None),
        ("Mine = {'train': ['a']}", "splits", ("train",), None),
        ("Mine = {'train': ['a'], 'valid': ['b']}", "splits", ("train", "valid"), None),
        ("Mine = {'train': 'a', 'val': ['b', 'c']}", "no_documents", (), None),
        ("Mine = ['a', 'b']", "too_few", (), None),
        ("Miner = []", "unknown", ("Mine",), None),
    ],
)
def test_what_is_no_corpus_is_refused(
    source: str, kind: str, keys: tuple[str, ...], line: int | None, here: Path
) -> None:
    write(here, source)
    assert facts(refused()) == (kind, keys, line)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("Mine = 3", "gives int, not documents"),
        ("Mine = ['a', b'b']", "document 2: it holds bytes, not text"),
        ("Mine = {'train': ['a'], 'valid': ['b']}", "has the splits train, valid"),
        ("x = 1\nraise KeyError('z')", "importing it failed at {file}:2: KeyError"),
        ("def Mine():\n    yield 'a'\n    1 / 0", "reading it failed at {file}:3: ZeroDivisionError"),
        ("class Mine:\n    def __init__(self, path): pass", "missing 1 required positional argument"),
        ("def Mine():\n    return open('missing.txt')", "reading it failed at {file}:2: FileNotFoundError"),
        ("Miner = []", "has no Mine; did you mean Miner?"),
    ],
)
def test_what_each_refusal_says(source: str, expected: str, here: Path) -> None:
    write(here, source)
    assert expected.format(file=here / "my_corpus.py") in str(refused())


def test_a_missing_module_names_the_nearest_module_or_kind(here: Path) -> None:
    write(here, f"Mine = {STORIES}")
    assert "did you mean my_corpus?" in str(refused("my_corpsu:Mine"))
    assert "did you mean text?" in str(refused("txt:notes"))


def test_the_declared_kinds_win_over_modules_of_their_names(here: Path) -> None:
    for name in corpora.KINDS:
        if name.isidentifier():
            write(here, "raise RuntimeError", name)
            assert corpora.kind_of(f"{name}:Mine") is corpora.KINDS[name]
