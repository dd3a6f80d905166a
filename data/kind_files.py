"""The kinds of corpus that are one file: `text`, `jsonl`, `parquet`, and nanoGPT's `shakespeare`, downloaded once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data.corpus_kind import Corpus, CorpusKind, split_field, split_path_and_field
from data.paths import at_home

if TYPE_CHECKING:
    from data.documents import Documents

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
_SHAKESPEARE_OFFLINE = "give the file if you have it: text:input.txt"


def _find_text(name: str, location: str, cache: Path) -> Corpus:
    from data import local_files

    path, digest = _checked(name, location)
    read = lambda scratch, progress: local_files.read_text(name, path)
    return Corpus(name, f"text-{path.stem}", f"{digest}#None", read)


def _find_jsonl(name: str, argument: str, cache: Path) -> Corpus:
    from data import local_files

    location, field = split_field(argument)
    path, digest = _checked(name, location)
    read = lambda scratch, progress: local_files.read_jsonl(name, path, field, scratch)
    return Corpus(name, f"jsonl-{path.stem}", f"{digest}#{field}", read)


def _find_parquet(name: str, argument: str, cache: Path) -> Corpus:
    from data import local_files

    location, field = split_field(argument)
    path, digest = _checked(name, location)
    read = lambda scratch, progress: local_files.read_parquet(name, path, field, scratch)
    return Corpus(name, f"parquet-{path.stem}", f"{digest}#{field}", read)


def _checked(name: str, location: str) -> tuple[Path, str]:
    """The path of a file that can be read and is not empty, and its sha256. Raises UserError."""
    from data import local_files

    path = at_home(location)
    local_files.check_file(name, path)
    return path, local_files.sha256_of(path)


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
