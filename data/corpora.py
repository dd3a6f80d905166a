"""A corpus by name: what can be given as `corpus:`, and how its documents are read.

stories, stories:N           built in, exact entropy known; needs nothing
shakespeare                  nanoGPT's file, downloaded once
tinystories                  roneneldan/TinyStories, its own validation split
tinystories-clean            karpathy/tinystories-gpt4-clean, its own val and test rows
hackernews                   titles, by the recipe of the Mainrun task
text:PATH                    documents between lines <|endoftext|>, or one document
jsonl:PATH#field  parquet:PATH#field  hf:NAME_OR_DIRECTORY#field
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from data import hub, local_files
from data.documents import Documents, open_blob
from data.download import download
from data.errors import UserError, nearest
from data.paths import at_home
from data.progress import bar

SHAKESPEARE_URL = "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
SHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
STORIES = 20_000  # documents of the default corpus: 10 MB
STORIES_SEED = 1337

# name -> dataset on the hub, field, order and splits of its rows, what to give without a network
HUB: dict[str, tuple[str, str, hub.Arrange, str]] = {
    "tinystories": (
        "roneneldan/TinyStories",
        "text",
        hub.own_splits,
        "give a TinyStories file you have: text:TinyStories-train.txt",
    ),
    "tinystories-clean": (
        "karpathy/tinystories-gpt4-clean",
        "text",
        hub.clean_tinystories,
        "give a copy you have: parquet:PATH#text",
    ),
    "hackernews": (
        "julien040/hacker-news-posts",
        "title",
        hub.mainrun_titles,
        "give a copy you have: parquet:PATH#title",
    ),
}
WITH_PATH = ("text", "jsonl", "parquet", "hf")
NAMES = ("stories", "shakespeare", *HUB, *(f"{kind}:PATH" for kind in WITH_PATH))


@dataclass(frozen=True)
class Corpus:
    """A corpus that exists, not yet read.

    name: as the user wrote it. slug: for the name of a folder. key: changes when the content does.
    read: (scratch folder, show progress) -> Documents; what it writes may be deleted afterwards.
    """

    name: str
    slug: str
    key: str
    read: Callable[[Path, bool], Documents]


def find(name: str, cache: Path) -> Corpus:
    """The corpus of that name. UserError when there is none, or its file is missing, empty or a directory."""
    kind, colon, rest = name.partition(":")
    if kind == "stories":
        return _stories(name, rest, colon)
    if name == "shakespeare":
        return Corpus(name, name, SHAKESPEARE_SHA256, partial(_read_shakespeare, name, cache))
    if name in HUB:
        dataset, field, arrange, instead = HUB[name]
        read = partial(hub.read_hub, name, dataset, field, arrange, instead)
        # the first copy that was prepared stays: the same numbers tomorrow, and no network needed for them
        return Corpus(name, name, f"{dataset}#{field}", read)
    if kind not in WITH_PATH:
        hint = nearest(kind, WITH_PATH) if colon else nearest(name, NAMES)
        if at_home(name).is_file():
            hint = f"did you mean text:{name}?"
        raise UserError(f"corpus {name} is not known; {hint}")
    if not rest:
        raise UserError(f"corpus {name} names no {'dataset' if kind == 'hf' else 'file'}: write {kind}:PATH")
    return _hf(name, rest) if kind == "hf" else _file(name, kind, rest)


def _file(name: str, kind: str, rest: str) -> Corpus:
    location, field = (rest, None) if kind == "text" else _field(rest)
    path = at_home(location)
    local_files.check_file(name, path)
    key = local_files.sha256_of(path)
    read: Callable[[Path, bool], Documents]
    if kind == "text":
        read = lambda scratch, progress: local_files.read_text(name, path)
    elif kind == "jsonl":
        read = lambda scratch, progress: local_files.read_jsonl(name, path, field, scratch)
    else:
        read = lambda scratch, progress: local_files.read_parquet(name, path, field, scratch)
    return Corpus(name, f"{kind}-{path.stem}", f"{key}#{field}", read)


def _hf(name: str, rest: str) -> Corpus:
    location, field = _field(rest)
    path = at_home(location)
    if path.is_file():
        raise UserError(f"{name}: {path} is a file; use text:, jsonl: or parquet: for files")
    if path.is_dir():
        read = lambda scratch, progress: hub.read_directory(name, path, field, scratch, progress)
        return Corpus(name, f"hf-{path.name}", f"{hub.directory_key(path)}#{field}", read)
    if location[0] in "./~" or location.count("/") > 2:
        raise UserError(f"{name}: no such directory: {path.absolute()}")
    instead = "give a file you have: text:PATH, jsonl:PATH#field or parquet:PATH#field"
    return Corpus(
        name,
        f"hf-{location.replace('/', '-')}",
        f"{location}#{field}",
        partial(hub.read_hub, name, location, field, hub.own_splits, instead),
    )


def _field(rest: str) -> tuple[str, str | None]:
    location, hash_sign, field = rest.rpartition("#")
    return (location, field or None) if hash_sign else (rest, None)


def _read_shakespeare(name: str, cache: Path, scratch: Path, progress: bool) -> Documents:
    target = cache / "downloads" / "shakespeare.txt"
    instead = "give the file if you have it: text:input.txt"
    return local_files.read_text(name, download(SHAKESPEARE_URL, SHAKESPEARE_SHA256, target, instead))


def _stories(name: str, count: str, colon: str) -> Corpus:
    if not colon:
        n = STORIES
    elif count.isdecimal() and int(count) >= 3:
        n = int(count)
    else:
        raise UserError(f"corpus {name}: {count or 'nothing'} is not a number of stories; write stories:N with N >= 3")
    sources = sorted(Path(__file__).parent.glob("stories*.py"))
    generator = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()
    read = lambda scratch, progress: generate_stories(n, scratch, progress)
    return Corpus(name, f"stories-{n}", f"{generator} seed {STORIES_SEED} n {n}", read)


def generate_stories(n: int, scratch: Path, progress: bool) -> Documents:
    """The first n stories of the built-in stream, made by as many processes as there are processors."""
    workers = max(1, min(processors(), n // 1000))
    bounds = [n * i // workers for i in range(workers + 1)]
    prefixes = [scratch / f"stories-{i}" for i in range(workers)]
    root = Path(__file__).resolve().parents[1]
    children = []
    try:
        for prefix, start, stop in zip(prefixes, bounds, bounds[1:], strict=False):
            command = [sys.executable, "-m", "data.generate", f"{STORIES_SEED}", f"{start}", f"{stop}"]
            children.append(subprocess.Popen([*command, str(prefix.absolute())], cwd=root))
        with bar("writing stories", n, progress) as advance:
            done = 0
            while any(child.poll() is None for child in children):
                time.sleep(0.02)
                now = sum(p.stat().st_size // 8 for q in prefixes if (p := q.with_suffix(".lengths")).exists())
                advance(now - done)
                done = now
    finally:
        for child in children:
            child.kill()
            child.wait()
    for child in children:
        if child.returncode > 0 and child.returncode != 1:
            raise OSError(child.returncode, os.strerror(child.returncode))
        if child.returncode:
            raise RuntimeError(f"python -m data.generate failed with exit status {child.returncode}")
    return _joined(prefixes, scratch / "documents.txt")


def _joined(prefixes: list[Path], target: Path) -> Documents:
    """The files of the processes, one after the other."""
    with target.open("wb") as joined:
        for prefix in prefixes:
            part = prefix.with_suffix(".txt")
            with part.open("rb") as texts:
                while chunk := texts.read(1 << 20):
                    joined.write(chunk)
            part.unlink()
    lengths = np.concatenate([np.fromfile(prefix.with_suffix(".lengths"), dtype=np.int64) for prefix in prefixes])
    nats = np.concatenate([np.fromfile(prefix.with_suffix(".nll"), dtype=np.float64) for prefix in prefixes])
    ends = np.cumsum(lengths)
    return Documents(blob=open_blob(target), starts=ends - lengths, stops=ends, floor_nll=nats)


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
