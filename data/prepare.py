"""Turns a corpus and a tokenizer into token arrays in the cache: written once, then memory-mapped.

    dataset = prepare("text:input.txt", "bpe:1024")      # seconds the first time, then milliseconds
    dataset = open_dataset(dataset.path)                  # the same, in another process
    test = load_test(dataset.path)                        # the only way to see the test split

A prepared corpus is a folder: meta.json, the tokenizer's files, token_bytes.npy, checksums.json and, for each split, a
folder with tokens.npy, doc_starts.npy and, where the floor is known, floor_nll.npy. It is written elsewhere and
renamed, so that it is complete or absent; one that was damaged since is prepared anew.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data import checksums, corpora, splits, titles
from data.corpus_kind import Corpus
from data.dataset import Dataset, Split
from data.documents import Documents, pieces
from data.encode import bar, write_split
from data.errors import UserError
from data.tokenizers import JSON_FILE, RANKS_FILE, CharTokenizer, Tokenizer, characters_of, check_name

FORMAT = 1  # version of the folder's layout and meaning
_META = "meta.json"
_LONGEST_SLUG = 80  # letters of a folder's name before its key: the names of files have a limit


def default_cache() -> Path:
    """$NANOSWEEP_CACHE, or ~/.cache/nanosweep."""
    return Path(os.environ.get("NANOSWEEP_CACHE") or "~/.cache/nanosweep").expanduser()


def prepare(
    corpus: str,
    tokenizer: str,
    split: str = "documents",
    cache: Path | None = None,
    progress: bool = False,
    allow_code: bool = False,
) -> Dataset:
    """The token arrays of a corpus, from the cache or prepared now, once even if several processes ask for them.

    A prepared corpus that was damaged is prepared anew, which a line on stderr says.
    corpus, tokenizer: names as in data/corpora.py and data/tokenizers.py.
    split: `documents` (90/5/5, or the corpus's own splits), `nanogpt` (first 90 % of the characters, last 10 %) or
        `mainrun` (first 90 % of the titles, last 10 %).
    allow_code: whether a corpus that is code of the user's own (`my_module:MyCorpus`) may run. It runs only when it
        is not in the cache yet; the cache knows the digest of its source.
    Raises UserError for an unknown or faulty corpus, tokenizer or split, for a missing network and for a full disk.
    """
    cache = cache or default_cache()
    splits.check_rule(split)
    kept_name = check_name(tokenizer)
    source = corpora.find(corpus, cache, allow_code)
    key = hashlib.sha256(json.dumps([FORMAT, source.key, kept_name, split]).encode()).hexdigest()[:16]
    slug = re.sub(r"[^A-Za-z0-9_.-]", "_", f"{source.slug}-{kept_name}")
    folder = cache / f"{slug[:_LONGEST_SLUG]}-{key}"
    with _disk_errors(cache):
        if not folder.exists() or _damage(folder):
            _prepare_once(source, tokenizer, split, cache, folder, progress)
    return replace(open_dataset(folder), corpus=corpus)


def _prepare_once(corpus: Corpus, tokenizer: str, split: str, cache: Path, folder: Path, progress: bool) -> None:
    from filelock import FileLock

    (cache / "locks").mkdir(parents=True, exist_ok=True)
    with FileLock(cache / "locks" / f"{folder.name}.lock"):
        if folder.exists():
            damage = _damage(folder)
            if not damage:
                return  # another process prepared it while this one waited
            print(f"note: {folder} is damaged ({damage}): the corpus is prepared anew", file=sys.stderr)
        work = cache / f"{folder.name}.tmp"
        shutil.rmtree(work, ignore_errors=True)  # left by a process that was killed; this one holds the lock
        try:
            (work / "scratch").mkdir(parents=True)
            (work / "dataset").mkdir()
            documents = corpus.read(work / "scratch", progress)
            _build(corpus, documents, tokenizer, split, cache, work / "dataset", progress)
            corpus.check()
            checksums.write(work / "dataset")
            if folder.exists():
                folder.rename(work / "damaged")
            (work / "dataset").rename(folder)
            if "remark" in documents.facts:
                print(f"note: {corpus.name}: {documents.facts['remark']}", file=sys.stderr)
        finally:
            shutil.rmtree(work, ignore_errors=True)


def _damage(folder: Path) -> str:
    """What is wrong with a prepared corpus; empty where nothing is. One without checksums is read whole, then has them.

    Earlier releases wrote none.
    """
    if (folder / checksums.FILE).exists():
        return checksums.damage(folder)
    try:
        dataset = open_dataset(folder)
        parts = {"train": dataset.train, "val": dataset.val}
        if "test" in dataset.meta["splits"]:
            parts["test"] = load_test(folder)
        floors = [part.floor_nll is None or len(part.floor_nll) == part.n_docs for part in parts.values()]
        if content_hash(folder, list(parts)) != dataset.hash or not all(floors):
            return "its content has another hash"
    except UserError as error:
        return str(error)
    with suppress(OSError):  # a cache that is only read
        checksums.write(folder)
    return ""


def _build(
    corpus: Corpus,
    documents: Documents,
    tokenizer_name: str,
    rule: str,
    cache: Path,
    folder: Path,
    progress: bool,
) -> None:
    """Write the files of a prepared corpus, meta.json last."""
    documents = titles.titles_of(documents) if rule == "mainrun" else documents
    several = len(documents) > 1
    parts = splits.divide(documents, rule, corpus.name)
    tokenizer = make_tokenizer(tokenizer_name, documents, parts["train"], corpus.name, cache, progress)
    tokenizer.save(folder)
    np.save(folder / "token_bytes.npy", tokenizer.token_bytes)
    dtype = token_dtype(tokenizer.n_classes)
    eot = tokenizer.eot if several else None
    summary: dict[str, dict[str, float]] = {}
    for name, part in parts.items():
        n_tokens = write_split(part, tokenizer, eot, dtype, folder / name, f"tokenising {name}", progress)
        if n_tokens < 2:
            problem = f"{corpus.name}: too short a corpus: {name} has {n_tokens} tokens; give more text"
            raise UserError(problem, kind="too_short", keys=name)
        summary[name] = {"documents": len(part), "bytes": part.n_bytes, "tokens": n_tokens}
        if part.floor_nll is not None:
            summary[name]["floor_nats"] = float(part.floor_nll.sum())
        if rule == "mainrun":
            summary[name]["text_length"] = titles.text_length(part)
    meta: dict[str, Any] = {
        "format": FORMAT,
        "corpus": corpus.name,
        "corpus_key": corpus.key,
        "tokenizer": tokenizer.name,
        "split": rule,
        "n_classes": tokenizer.n_classes,
        "eot": tokenizer.eot,
        "splits": summary,
        "hash": content_hash(folder, list(parts)),
        **documents.facts,
    }
    (folder / _META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")


def make_tokenizer(
    name: str, documents: Documents, train: Documents, corpus: str, cache: Path, progress: bool
) -> Tokenizer:
    """char: the characters of the whole corpus, as nanoGPT; bpe:N: trained on the training split; gpt2: GPT-2's."""
    if name == "char":
        return CharTokenizer(characters_of(_texts(documents, "looking at characters", progress)), len(documents) > 1)
    from data.bpe import load_gpt2, train_bpe

    if name.startswith("gpt2"):
        return load_gpt2(name, cache)
    return train_bpe(_texts(train, f"training {name}", progress), int(name.partition(":")[2]), corpus, progress)


def _texts(documents: Documents, label: str, progress: bool) -> Iterator[str]:
    with bar(label, documents.n_bytes, progress) as advance:
        for first, last in zip(documents.starts.tolist(), documents.stops.tolist(), strict=True):
            for start, stop in pieces(documents.blob, first, last):
                yield documents.blob[start:stop].tobytes().decode("utf-8")
            advance(last - first)


def token_dtype(n_classes: int) -> np.dtype[Any]:
    """uint16 where the ids fit, else uint32; little-endian on every machine. UserError beyond uint32."""
    for dtype in ("<u2", "<u4"):
        if n_classes <= np.iinfo(dtype).max + 1:
            return np.dtype(dtype)
    raise UserError(f"a vocabulary of {n_classes:,} classes does not fit a 32-bit token; use a smaller one")


def content_hash(folder: Path, names: list[str]) -> str:
    """sha256 over tokenizer and splits: equal text in equal order gives an equal hash, whatever its file or kind."""
    digest = hashlib.sha256()
    files = [JSON_FILE, RANKS_FILE, *(f"{name}/{array}.npy" for name in names for array in ("tokens", "doc_starts"))]
    for name in files:
        if (folder / name).exists():
            digest.update(f"{name} {(folder / name).stat().st_size}\n".encode())
            with (folder / name).open("rb") as file:
                while chunk := file.read(1 << 20):
                    digest.update(chunk)
    return digest.hexdigest()


def open_dataset(path: Path) -> Dataset:
    """A prepared corpus with train and val memory-mapped; the test split is not opened.

    Raises UserError where it is none, and where it is damaged.
    """
    meta = _read_meta(path)
    with _damage_errors(path):
        return Dataset(
            corpus=meta["corpus"],
            tokenizer=meta["tokenizer"],
            n_classes=meta["n_classes"],
            eot=meta["eot"],
            token_bytes=np.load(path / "token_bytes.npy"),
            train=_open_split(path / "train"),
            val=_open_split(path / "val"),
            hash=meta["hash"],
            path=path,
            meta=meta,
        )


def load_test(path: Path) -> Split:
    """The test split of a prepared corpus.

    Raises UserError where there is none (`split: nanogpt | mainrun`), and where it is damaged.
    """
    meta = _read_meta(path)
    if "test" not in meta["splits"]:
        raise UserError(
            f"{meta['corpus']} with split: {meta['split']} has no test split; use split: documents",
            kind="no_test_split",
        )
    with _damage_errors(path):
        return _open_split(path / "test")


def _read_meta(path: Path) -> dict[str, Any]:
    if not (path / _META).exists():
        problem = f"{path} is not a prepared corpus (it has no {_META}); prepare it first"
        raise UserError(problem, kind="unprepared")
    with _damage_errors(path):
        meta: dict[str, Any] = json.loads((path / _META).read_text(encoding="utf-8"))
        meta["format"], meta["corpus"], meta["splits"]
    if meta["format"] != FORMAT:
        raise UserError(f"{path} was prepared in format {meta['format']}, this version reads {FORMAT}; prepare it anew")
    return meta


def _open_split(folder: Path) -> Split:
    floor = folder / "floor_nll.npy"
    return Split(
        tokens=_open_array(folder / "tokens.npy"),
        doc_starts=_open_array(folder / "doc_starts.npy"),
        floor_nll=_open_array(floor) if floor.exists() else None,
    )


def _open_array(file: Path) -> np.ndarray:
    # a plain array over the map: np.memmap is slower to index and pickles its file name too
    return np.asarray(np.load(file, mmap_mode="r"))


@contextmanager
def _damage_errors(path: Path) -> Iterator[None]:
    """Turn what reading damaged files raises into a UserError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, EOFError) as error:
        problem = f"{path} is damaged ({type(error).__name__}: {error}); prepare the corpus again"
        raise UserError(problem, kind="damaged") from None


@contextmanager
def _disk_errors(cache: Path) -> Iterator[None]:
    """Turn a full disk and missing permissions in the cache into UserErrors that name the cache."""
    advice = "set NANOSWEEP_CACHE to a folder on another disk"
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem = f"no space left in {cache} for the prepared corpus: make room, or {advice}"
            raise UserError(problem, kind="full_disk") from None
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST):
            problem = f"cannot write to the cache {cache} ({error.strerror}): {advice}"
            raise UserError(problem, kind="cannot_write") from None
        raise
