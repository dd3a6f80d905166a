"""Tokenise one split in parallel and stream it to .npy files, with a progress bar; memory does not grow with the
corpus."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from data.documents import Documents, pieces
from data.tokenizers import Tokenizer

CHUNK = 1 << 20  # bytes of text per task


def write_split(
    documents: Documents,
    tokenizer: Tokenizer,
    eot: int | None,
    dtype: np.dtype[Any],
    folder: Path,
    label: str,
    progress: bool,
) -> int:
    """Write tokens.npy, doc_starts.npy and, where the floor is known, floor_nll.npy (see data.dataset.Split).

    Returns the number of tokens. eot: the id before the first document and after each; None for a one-document corpus.
    """
    folder.mkdir()
    tasks = _tasks(documents, tokenizer, eot)
    with (
        NpyWriter(folder / "tokens.npy", dtype) as tokens,
        NpyWriter(folder / "doc_starts.npy", np.dtype("<i8")) as starts,
        bar(label, documents.n_bytes, progress) as advance,
    ):
        if eot is not None:
            tokens.append(np.array([eot]))
        starts.append(np.array([1]))
        for ids, lengths, n_bytes in _in_order(tasks, processors()):
            if eot is not None:
                starts.append(len(tokens) + np.cumsum(lengths))
            tokens.append(ids)
            advance(n_bytes)
        if eot is None:
            starts.append(np.array([len(tokens)]))
    if documents.floor_nll is not None:
        np.save(folder / "floor_nll.npy", documents.floor_nll)
    return len(tokens)


Encoded = tuple[np.ndarray, np.ndarray, int]  # ids (n,), tokens of each document with its EOT (d,), bytes of text


def _tasks(documents: Documents, tokenizer: Tokenizer, eot: int | None) -> Iterator[Callable[[], Encoded]]:
    """Runs of documents of about CHUNK bytes; without EOT, the pieces of the only document."""
    if eot is None:
        for start, stop in pieces(documents.blob, int(documents.starts[0]), int(documents.stops[0]), CHUNK):
            yield partial(_encode_piece, documents.blob, start, stop, tokenizer)
        return
    ends = np.cumsum(documents.stops - documents.starts)
    first = 0
    while first < len(documents):
        before = int(ends[first - 1]) if first else 0
        stop = max(first + 1, int(np.searchsorted(ends, before + CHUNK, side="right")))
        yield partial(_encode_documents, documents, first, stop, tokenizer, eot)
        first = stop


def _encode_piece(blob: np.ndarray, start: int, stop: int, tokenizer: Tokenizer) -> Encoded:
    ids = tokenizer.encode(blob[start:stop].tobytes().decode("utf-8"))
    return ids, np.array([len(ids)]), stop - start


def _encode_documents(documents: Documents, first: int, stop: int, tokenizer: Tokenizer, eot: int) -> Encoded:
    parts, lengths, n_bytes = [], [], 0
    end = np.array([eot], dtype=np.uint32)
    for i in range(first, stop):
        ranges = pieces(documents.blob, int(documents.starts[i]), int(documents.stops[i]), CHUNK)
        encoded = [_encode_piece(documents.blob, start, stop, tokenizer)[0] for start, stop in ranges]
        parts += [*encoded, end]
        lengths.append(sum(map(len, encoded)) + 1)
        n_bytes += int(documents.stops[i] - documents.starts[i])
    return np.concatenate(parts), np.array(lengths), n_bytes


def _in_order(tasks: Iterable[Callable[[], Encoded]], workers: int) -> Iterator[Encoded]:
    """Results of the tasks in their order, a few ahead, in threads (tiktoken releases the interpreter's lock)."""
    waiting: deque[Future[Encoded]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for task in tasks:
            waiting.append(pool.submit(task))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def processors() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def bar(label: str, total: int, show: bool) -> Iterator[Callable[[int], None]]:
    """A progress bar on stderr. Yields a function that advances it by n of `total`; without effect if not `show`.

    with bar("tokenising train", n_bytes, show) as advance:
        advance(n)
    """
    if not show:
        yield lambda n: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda n: progress.advance(task, n)


class NpyWriter:
    """A one-dimensional .npy file, written in parts; its length need not be known before the end.

    Written with write(2), which raises OSError on a full disk; a memory map would end the process with SIGBUS.
    """

    def __init__(self, path: Path, dtype: np.dtype[Any]) -> None:
        self._file = path.open("wb")
        self._dtype = dtype
        self._length = 0
        self._write_header()

    def _write_header(self) -> None:
        # numpy pads the header for a growing first axis, so that every length takes the same space
        shape = {"descr": self._dtype.str, "fortran_order": False, "shape": (self._length,)}
        np.lib.format.write_array_header_1_0(self._file, shape)

    def __len__(self) -> int:
        return self._length

    def append(self, values: np.ndarray) -> None:
        self._file.write(values.astype(self._dtype).tobytes())
        self._length += len(values)

    def __enter__(self) -> NpyWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._file:
            if error is None:
                self._file.seek(0)
                self._write_header()
