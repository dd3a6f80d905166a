"""The kinds of corpus that Hugging Face `datasets` reads: three datasets of the hub by name, and `hf` for any other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data.corpus_kind import Corpus, CorpusKind, Reader, split_field, split_path_and_field
from data.errors import UserError
from data.paths import at_home, entry, is_directory

if TYPE_CHECKING:
    from data.documents import Documents

_PAGE = "https://huggingface.co/datasets"
_HF_OFFLINE = "give a file you have: text:PATH, jsonl:PATH#field or parquet:PATH#field"


def _named(name: str, dataset: str, field: str, arrange: str, offline: str, text: str, licence: str) -> CorpusKind:
    """A dataset of the hub under a name of its own. arrange: the function of data.hub that orders and splits rows."""

    def find(written: str, argument: str, cache: Path) -> Corpus:
        # the first copy that was prepared stays: the same numbers tomorrow, and no network needed for them
        return Corpus(written, name, f"{dataset}#{field}", _reader(written, dataset, field, arrange, offline))

    return CorpusKind(name=name, example=name, find=find, text=text, licence=licence, offline=offline, noun="dataset")


def _reader(name: str, dataset: str, field: str | None, arrange: str, offline: str) -> Reader:
    def read(scratch: Path, progress: bool) -> Documents:
        from data import hub

        return hub.read_hub(name, dataset, field, getattr(hub, arrange), offline, scratch, progress)

    return read


def _find_hf(name: str, argument: str, cache: Path) -> Corpus:
    location, field = split_field(argument)
    path = at_home(location)
    try:
        there = entry(path)
        if there == "directory":
            from data import hub

            read = lambda scratch, progress: hub.read_directory(name, path, field, scratch, progress)
            return Corpus(name, f"hf-{path.name}", f"{hub.directory_key(path)}#{field}", read)
    except OSError as error:
        problem = f"{name}: cannot read {error.filename or path}: {error.strerror}"
        raise UserError(problem, kind="cannot_read") from None
    if there == "file":
        raise UserError(f"{name}: {path} is a file; use text:, jsonl: or parquet: for files", kind="is_file")
    if there:
        problem = f"{name}: {path} is a {there}; give a directory that Hugging Face datasets can load"
        raise UserError(problem, kind="missing" if there == "broken link" else "no_file")
    if location[0] in "./~" or location.count("/") > 2:
        raise UserError(f"{name}: no such directory: {path.absolute()}", kind="missing")
    read_hub = _reader(name, location, field, "own_splits", _HF_OFFLINE)
    return Corpus(name, f"hf-{location.replace('/', '-')}", f"{location}#{field}", read_hub)


def _split_directory(argument: str) -> tuple[str, str]:
    location, tail = split_path_and_field(argument)
    return (location, tail) if location[:1] in ("/", ".", "~") or is_directory(at_home(location)) else ("", "")


TINYSTORIES = _named(
    "tinystories",
    "roneneldan/TinyStories",
    "text",
    "own_splits",
    "give a TinyStories file you have: text:TinyStories-train.txt",
    f"short stories for small children, written by GPT-3.5 and GPT-4 ({_PAGE}/roneneldan/TinyStories)",
    "CDLA-Sharing-1.0",
)
TINYSTORIES_CLEAN = _named(
    "tinystories-clean",
    "karpathy/tinystories-gpt4-clean",
    "text",
    "clean_tinystories",
    "give a copy you have: parquet:PATH#text",
    "the stories of TinyStories that GPT-4 wrote, cleaned",
    "derived from TinyStories, which is under CDLA-Sharing-1.0; its own terms are on its page: "
    f"{_PAGE}/karpathy/tinystories-gpt4-clean",
)
HACKERNEWS = _named(
    "hackernews",
    "julien040/hacker-news-posts",
    "title",
    "mainrun_titles",
    "give a copy you have: parquet:PATH#title",
    "titles of posts on Hacker News",
    f"see the dataset's page: {_PAGE}/julien040/hacker-news-posts",
)
HF = CorpusKind(
    name="hf",
    argument="NAME_OR_DIRECTORY#field",
    noun="dataset",
    example="hf:roneneldan/TinyStories#text",
    find=_find_hf,
    text="a dataset in Hugging Face's format",
    offline=_HF_OFFLINE,
    split_path=_split_directory,
)
