"""The kinds of corpus that are one file: `text`, `jsonl`, `parquet`, and nanoGPT's `shakespeare`, downloaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data.corpus_kind import Corpus, CorpusKind, Reader, split_field, split_path_and_field
from data.errors import UserError
from data.paths import at_home

if TYPE_CHECKING:
    from data.documents import Documents

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_SHAKESPEARE_OFFLINE = "give the file if you have it: text:input.txt"


def _find_text(name: str, location: str, cache: Path) -> Corpus:
    from data import local_files

    path = at_home(location)
    read = lambda scratch, progress: local_files.read_text(name, path)
    return _corpus("text", name, path, local_files.DIVISION, read)


def _find_jsonl(name: str, argument: str, cache: Path) -> Corpus:
    from data import local_files

    location, field = split_field(argument)
    path = at_home(location)
    read = lambda scratch, progress: local_files.read_jsonl(name, path, field, scratch)
    return _corpus("jsonl", name, path, field, read)


def _find_parquet(name: str, argument: str, cache: Path) -> Corpus:
    from data import local_files

    location, field = split_field(argument)
    path = at_home(location)
    read = lambda scratch, progress: local_files.read_parquet(name, path, field, scratch)
    return _corpus("parquet", name, path, field, read)


def _corpus(kind: str, name: str, path: Path, field: str | None, read: Reader) -> Corpus:
    """The corpus of a file that can be read and is not empty, known by its sha256. Raises UserError."""
    from data import local_files
    from data.file_checks import check_file

    check_file(name, path, kind)
    before, digest = _stamp(path), local_files.sha256_of(path)

    def check() -> None:
        if _stamp(path) != before and local_files.sha256_of(path) != digest:
            problem = f"{name}: {path} changed while it was read; begin again once it is written to its end"
            raise UserError(problem, kind="changed")

    return Corpus(name, f"{kind}-{path.stem}", f"{digest}#{field}", read, check)


def _stamp(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


def _find_shakespeare(name: str, argument: str, cache: Path) -> Corpus:
    def read(scratch: Path, progress: bool) -> Documents:
        from data.download import download
        from data.local_files import read_text

        target = cache / "downloads" / "shakespeare.txt"
        return read_text(name, download(SHAKESPEARE_URL, SHAKESPEARE_SHA256, target, _SHAKESPEARE_OFFLINE))

    return Corpus(name, name, SHAKESPEARE_SHA256, read)


TEXT = CorpusKind(
    name="text",
    argument="PATH",
    example="text:input.txt",
    find=_find_text,
    text="a local text file",
    split_path=lambda argument: (argument, ""),
)
JSONL = CorpusKind(
    name="jsonl",
    argument="PATH#field",
    example="jsonl:stories.jsonl#story",
    find=_find_jsonl,
    text="a local file of JSON lines",
    split_path=split_path_and_field,
)
PARQUET = CorpusKind(
    name="parquet",
    argument="PATH#field",
    example="parquet:stories.parquet#story",
    find=_find_parquet,
    text="a local Parquet file",
    split_path=split_path_and_field,
)
SHAKESPEARE = CorpusKind(
    name="shakespeare",
    example="shakespeare",
    find=_find_shakespeare,
    text="plays by Shakespeare, in nanoGPT's file of 1.1 MB",
    licence="public domain",
    offline=_SHAKESPEARE_OFFLINE,
)
