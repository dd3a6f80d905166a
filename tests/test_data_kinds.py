"""Every declared kind of corpus, by its declaration alone; and a kind that is added, counted in files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data import corpora
from data.corpora import KINDS
from data.corpus_kind import CorpusKind
from data.errors import UserError
from data.licences import terms
from data.prepare import prepare
from tests import specs
from tests.waiting import CEILING
from trainer.config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent
TALES = ["Tim saw a cat.\n\nIt ran.", "Mia said “Hi”.\r\nShe left.", "One <|endoftext|> in a line.", "Zoë end"]

every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.name)


def refusal(name: str, tmp_path: Path) -> str:
    with pytest.raises(UserError) as raised:
        corpora.find(name, tmp_path)
    return str(raised.value)


@every_kind
def test_a_kinds_example_is_of_that_kind_and_the_config_lists_it(kind: CorpusKind) -> None:
    assert corpora.kind_of(kind.example) is kind
    assert f"{kind.spelling} |" in (TrainConfig.model_fields["corpus"].description or "")
    assert terms(kind.example, {}).text == kind.text
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    assert any(f"`{kind.name}" in page.read_text() for page in pages)


@every_kind
def test_a_misspelt_kind_is_answered_with_the_nearest(kind: CorpusKind, tmp_path: Path) -> None:
    word, colon, argument = kind.example.partition(":")
    message = refusal(f"{word[:1]}{word}{colon}{argument}", tmp_path)
    assert f"did you mean {word}" in message or f"did you mean {kind.spelling}" in message


@every_kind
def test_an_argument_that_is_missing_or_too_many_is_said_with_the_spelling(kind: CorpusKind, tmp_path: Path) -> None:
    if kind.argument:
        assert kind.spelling in refusal(f"{kind.name}:", tmp_path)
        if not kind.optional:
            assert kind.example in refusal(kind.name, tmp_path)
    else:
        assert f"write {kind.name}" in refusal(f"{kind.name}:more", tmp_path)


@every_kind
def test_the_path_of_a_kind_is_split_off_without_a_loss(kind: CorpusKind) -> None:
    head, path, tail = corpora.split_path(kind.example)
    if path:
        assert f"{head}{path}{tail}" == kind.example
        assert corpora.split_path(f"{head}/elsewhere/{path}{tail}") == (head, f"/elsewhere/{path}", tail)
    else:
        assert (head, tail) == ("", "")


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.offline], ids=lambda kind: kind.name)
def test_a_kind_that_needs_the_network_says_what_to_use_without_it(kind: CorpusKind, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from data import corpora; from data.errors import UserError\n"
        "try: corpora.find(sys.argv[1], Path()).read(Path(), False)\n"
        "except UserError as error: print(error)"
    )
    nowhere = "http://127.0.0.1:9"
    environment = {
        **{key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")},
        **{"HF_ENDPOINT": nowhere, "HF_HOME": str(tmp_path), "http_proxy": nowhere, "https_proxy": nowhere},
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-c", code, kind.example]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=CEILING)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(kind.offline)


def write_text(folder: Path, documents: list[str]) -> str:
    (folder / "a.txt").write_bytes("\n<|endoftext|>\n".join(documents).encode())
    return f"text:{folder}/a.txt"


def write_jsonl(folder: Path, documents: list[str]) -> str:
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"id": 1, "story": text}) for text in documents))
    return f"jsonl:{folder}/a.jsonl#story"


def write_parquet(folder: Path, documents: list[str]) -> str:
    pq.write_table(pa.table({"story": documents}), folder / "a.parquet")
    return f"parquet:{folder}/a.parquet#story"


def write_directory(folder: Path, documents: list[str]) -> str:
    (folder / "m").mkdir(exist_ok=True)
    (folder / "m" / "a.jsonl").write_text("\n".join(json.dumps({"id": 1, "story": text}) for text in documents))
    return f"hf:{folder}/m#story"


WRITERS = {"text": write_text, "jsonl": write_jsonl, "parquet": write_parquet, "hf": write_directory}


@pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)
def test_other_content_under_the_same_name_is_another_corpus(
    write: Callable[[Path, list[str]], str], tmp_path: Path
) -> None:
    name = write(tmp_path, TALES)
    before = corpora.find(name, tmp_path).key
    assert corpora.find(write(tmp_path, TALES), tmp_path).key == before
    write(tmp_path, [*TALES, "More."])
    assert corpora.find(name, tmp_path).key != before


# what release 0.1.0 called these folders in the cache: a corpus that it prepared is still there, except for `text`,
# which is divided into documents in another way since
PREPARED = {
    "text": "text-a-char-fff43eebceb1ff6a",
    "jsonl": "jsonl-a-char-5ba20d33bfa20d76",
    "hf": "hf-m-char-762ee5b7cdafebbd",
}
TALES_HASH = "a8d28818262a8d2b"  # and its hash of their content


@pytest.mark.parametrize("name", PREPARED)
def test_the_cache_of_the_first_release_is_still_valid(name: str, tmp_path: Path) -> None:
    dataset = prepare(WRITERS[name](tmp_path, TALES), "char", cache=tmp_path / "cache")
    assert (dataset.path.name, dataset.hash[:16]) == (PREPARED[name], TALES_HASH)


def test_the_stories_of_the_first_release_are_still_valid(tmp_path: Path) -> None:
    dataset = prepare("stories:30", "char", cache=tmp_path)
    assert (dataset.path.name, dataset.hash[:16]) == ("stories-30-char-594f661a621d15dd", "43385acc98a55cb1")


@pytest.mark.parametrize(
    ("name", "slug", "key"),
    [
        ("shakespeare", "shakespeare", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"),
        ("tinystories", "tinystories", "roneneldan/TinyStories#text"),
        ("tinystories-clean", "tinystories-clean", "karpathy/tinystories-gpt4-clean#text"),
        ("hackernews", "hackernews", "julien040/hacker-news-posts#title"),
        ("hf:a/b", "hf-a-b", "a/b#None"),
        ("hf:a/b/c#d", "hf-a-b-c", "a/b/c#d"),
    ],
)
def test_the_keys_of_downloaded_corpora_are_those_of_the_first_release(
    name: str, slug: str, key: str, tmp_path: Path
) -> None:
    corpus = corpora.find(name, tmp_path)
    assert (corpus.slug, corpus.key) == (slug, key)


# --- a kind that is added: data/kind_toy.py and its entry in data/corpora.py; a test of its own would be the third file

TOY = '''"""The kind `csv`: one document per line of a file, its first column."""

from data.corpus_kind import Corpus, CorpusKind


def _find(name, path, cache):
    from data import documents, file_checks, local_files
    from data.paths import at_home

    file = at_home(path)
    file_checks.check_file(name, file)

    def read(scratch, progress):
        rows = ((line.split(",")[0], documents.UNDECIDED) for line in file.read_text().splitlines())
        return documents.write_documents(rows, scratch / "documents.txt", name, "line", "column 1")

    return Corpus(name, f"csv-{file.stem}", local_files.sha256_of(file), read)


KIND = CorpusKind(
    name="csv", argument="PATH", example="csv:a.csv", find=_find, text="a table", licence="MIT",
    split_path=lambda path: (path, ""), judge=lambda texts: [f"{len(texts)} cells"],
)
'''
USE_TOY = """
import sys
from pathlib import Path
from data import corpora
from data.errors import UserError
from data.licences import terms
from data.prepare import prepare
from search.spec import load
from search.jobs.paths import absolute
from trainer.config import TrainConfig

Path("a.csv").write_text("".join(f"story {i},{i}\\n" for i in range(40)))
data = prepare("csv:a.csv", "char", cache=Path("cache"))
assert data.meta["splits"]["train"]["documents"] == 36, data.meta
assert terms("csv:a.csv", {}).licence == "MIT"
assert "csv:PATH" in TrainConfig.model_fields["corpus"].description
assert corpora.kind_of("csv:x").judge(["a"]) == ["1 cells"]
for name in ("csv:", "cvs:a.csv"):
    try:
        corpora.find(name, Path())
    except UserError as error:
        assert "csv" in str(error), error
    else:
        raise AssertionError(name)
Path("spec.yaml").write_text(SPEC)
Path("base.yaml").write_text("corpus: csv:a.csv\\n")
spec, base, file = load.load_spec(Path("spec.yaml"), [])
assert absolute(spec, base, file, None).changes == [f"corpus=csv:{Path('a.csv').absolute()}"]
"""


def test_a_new_kind_touches_two_files_beside_its_test(tmp_path: Path) -> None:
    for room in ("data", "models", "trainer", "search"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "data" / "kind_toy.py").write_text(TOY)
    registry = tmp_path / "data" / "corpora.py"
    text = registry.read_text()
    for old, new in (("import kind_files,", "import kind_toy, kind_files,"), ("(\n        kind_stories", None)):
        assert text.count(old) == 1
        text = text.replace(old, new or "(\n        kind_toy.KIND,\n        kind_stories")
    registry.write_text(text)
    (tmp_path / "work").mkdir()
    spec = specs.HEAD + "space:\n  learning_rate: {log: [1e-4, 1e-2]}\n"
    code = f"SPEC = {spec!r}\n{USE_TOY}"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(
        command, cwd=tmp_path / "work", env=environment, capture_output=True, text=True, timeout=CEILING
    )
    assert done.returncode == 0, done.stderr
