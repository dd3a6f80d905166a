"""Token arrays as a trainer reads them: training rows, full evaluation passes, fixed subsets.

    rows = Batches(dataset.train, block_size=256, order="random", seed=1337)
    x, y = rows.rows(step * batch_size, batch_size)     # (B, T) each, int64

Row r is a pure function of (split, block_size, order, seed, r). So resuming needs only the step number, and the
ranks or micro-batches that share a batch read together the rows that one process would read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Literal, get_args

import numpy as np

from data.dataset import Split
from data.errors import UserError, nearest

Order = Literal["random", "epoch", "sequential"]

CHUNK = 1024  # tokens of a chunk, which replaces a document in the subset of a one-document corpus
SUBSET_KEY = 20240  # seed of the subset's choice of documents; constant, so that all trials are scored on the same text


class Batches:
    """An endless stream of training rows.

    random: windows at uniformly random places, as nanoGPT.
    epoch: in each epoch every token is a target at most once: the stream, taken as a ring, is turned by a random
        amount, cut into windows, and the windows come in random order. What is left over (less than one block) is a
        different piece in each epoch.
    sequential: the stream from its beginning, window after window, again and again, as the Mainrun task: nothing is
        drawn. In each epoch the same tail is left out, which is less than a step of `rows_per_step` rows.
    With several documents the ring has no seam, as the stream begins and ends with EOT; with one document one window
    of each epoch spans the end and the beginning of the text.
    """

    def __init__(self, split: Split, block_size: int, order: Order, seed: int, rows_per_step: int = 1) -> None:
        if order not in get_args(Order):
            problem = f"data_order: {order} is not known; {nearest(order, get_args(Order))}"
            raise UserError(problem, kind="unknown", keys="data_order")
        if split.n_targets < block_size:
            raise UserError(
                f"the split has {len(split.tokens):,} tokens, fewer than one block (block_size {block_size} + 1): "
                "lower block_size or give more text",
                kind="too_short",
                keys="block_size",
            )
        step = block_size * rows_per_step
        if order == "sequential" and split.n_targets < step:
            raise UserError(
                f"the split has {len(split.tokens):,} tokens, fewer than one step of data_order: sequential "
                f"({rows_per_step} sequences of {block_size}, + 1): lower batch_size or give more text",
                kind="too_short",
                keys="batch_size",
            )
        self._tokens = np.asarray(split.tokens)
        self._block_size = block_size
        self._order = order
        self._seed = seed
        self._n_windows = split.n_targets // block_size
        if order == "sequential":
            self._n_windows -= self._n_windows % rows_per_step
        self._epoch = -1  # the epoch of the two fields below, which are only a cache
        self._turn = 0
        self._permutation = np.empty(0, dtype=np.int64)

    @property
    def tokens_per_epoch(self) -> int:
        """Targets in one epoch of order `epoch` or `sequential`."""
        return self._n_windows * self._block_size

    def rows(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows first, ..., first + count - 1: inputs and targets, (count, block_size) int64 each."""
        starts = self._starts(first, count)
        at = starts[:, None] + np.arange(self._block_size)  # (B, T)
        if self._order == "epoch":
            at %= len(self._tokens) - 1
        x = self._tokens[at].astype(np.int64)
        at += 1
        return x, self._tokens[at].astype(np.int64)

    def _starts(self, first: int, count: int) -> np.ndarray:
        """(count,) int64: where the windows of rows first, ... begin."""
        if self._order == "sequential":
            return np.arange(first, first + count, dtype=np.int64) % self._n_windows * self._block_size
        return self._random_starts(first, count) if self._order == "random" else self._epoch_starts(first, count)

    def _random_starts(self, first: int, count: int) -> np.ndarray:
        """(count,) int64, uniform over all places where a window fits."""
        bits = _random_bits(self._seed, 0, first, count)
        return _scale(bits, len(self._tokens) - self._block_size)

    def _epoch_starts(self, first: int, count: int) -> np.ndarray:
        starts = np.empty(count, dtype=np.int64)
        done = 0
        while done < count:
            epoch, at = divmod(first + done, self._n_windows)
            if epoch != self._epoch:
                self._start_epoch(epoch)
            windows = self._permutation[at : at + count - done]
            starts[done : done + len(windows)] = self._turn + windows * self._block_size
            done += len(windows)
        return starts

    def _start_epoch(self, epoch: int) -> None:
        bits = _random_bits(self._seed, 1 + epoch, 0, self._n_windows + 1)
        self._turn = int(_scale(bits[:1], len(self._tokens) - 1)[0])
        # sorted random numbers: the same permutation under every version of numpy, which shuffle does not promise
        self._permutation = np.argsort(bits[1:], kind="stable")
        self._epoch = epoch


def _random_bits(seed: int, stream: int, first: int, count: int) -> np.ndarray:
    """(count,) uint64: numbers first, first + 1, ... of an independent stream for each (seed, stream).

    Philox is a function of a counter (Salmon et al. 2011): any place of the stream is reached at once.
    """
    generator = np.random.Philox(key=np.array([seed % (1 << 64), stream], dtype=np.uint64))
    generator.advance(first // 4)  # each step of the counter gives four numbers
    skip = first % 4
    return generator.random_raw(skip + count)[skip:]


def _scale(bits: np.ndarray, n: int) -> np.ndarray:
    """Uniform in 0, ..., n - 1 from 64 random bits each; (...,) int64. Exact enough for n far below 2^53."""
    return ((bits >> np.uint64(11)) * (n * 2.0**-53)).astype(np.int64)


def eval_batches(
    split: Split, context: int, batch_size: int, stride: int | None = None, wanted: np.ndarray | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Every target of the split exactly once, in order, after as much text before it as its window has.

    Windows hold `context` targets and begin every `stride` (1 to context; default: context, no overlap). The first
    gives all of its targets, any later one its last `stride`; the last window is cut short where the split ends. So
    a target has at least min(its position, context - stride) tokens before the one that it follows.

    Yields (x, y, at): x (b, t) int64 the inputs of b <= batch_size windows; y and at (b, s) int64, the targets that
    their last s <= t positions predict, and where these are among the split's targets, counted from 0.
    wanted: (N,) bool over the targets: only windows that give a wanted one are yielded.
    """
    tokens, n, stride = np.asarray(split.tokens), split.n_targets, stride or context
    overlap, chosen = context - stride, None if wanted is None else np.concatenate(([0], np.cumsum(wanted)))

    def batch(starts: np.ndarray, size: int, skip: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        at = starts[:, None] + np.arange(size)  # (b, t)
        at_scored = at[:, skip:]
        return tokens[at].astype(np.int64), tokens[at_scored + 1].astype(np.int64), at_scored

    def select(starts: np.ndarray, size: int, skip: int) -> np.ndarray:
        return starts if chosen is None else starts[chosen[starts + size] > chosen[starts + skip]]

    n_windows = 1 + max(0, -(-(n - context) // stride))
    starts = np.arange(n_windows, dtype=np.int64) * stride
    whole = starts[starts + context <= n]
    # groups of windows of one shape: the first window, all of whose targets count (with an overlap), the other whole
    # ones, and the one that the end of the split cuts short
    groups = [(whole[:1], context, 0), (whole[1:], context, overlap)] if overlap else [(whole, context, 0)]
    groups += [(starts[i : i + 1], n - int(starts[i]), overlap if i else 0) for i in range(len(whole), n_windows)]
    for group, size, skip in groups:
        selected = select(group, size, skip)
        for first in range(0, len(selected), batch_size):
            yield batch(selected[first : first + batch_size], size, skip)


def subset(split: Split, n_tokens: int) -> Split:
    """About n_tokens (>= 1) targets of a split, never more, always the same: for measurements during a trial.

    Whole documents in a fixed random choice, in the order of the split, with their floor. Where documents are not
    smaller than n_tokens (a one-document corpus): evenly spaced chunks of 1,024 tokens, each a document.
    The split itself when it is not larger.
    """
    if n_tokens >= split.n_targets:
        return split
    lengths = np.diff(split.doc_starts)
    order = np.argsort(_random_bits(SUBSET_KEY, 0, 0, split.n_docs), kind="stable")
    order = order[lengths[order] <= n_tokens]
    chosen = np.sort(order[np.cumsum(lengths[order]) <= n_tokens])
    if split.n_docs == 1 or not len(chosen):
        starts, sizes, floor = *_chunks(split, n_tokens), None
    else:
        starts, sizes = split.doc_starts[chosen], lengths[chosen]
        floor = None if split.floor_nll is None else np.asarray(split.floor_nll)[chosen]
    parts = [split.tokens[:1] if split.n_docs > 1 else split.tokens[starts[0] - 1 : starts[0]]]
    parts += [split.tokens[start : start + size] for start, size in zip(starts, sizes, strict=True)]
    return Split(np.concatenate(parts), np.concatenate([[1], 1 + np.cumsum(sizes)]), floor)


def _chunks(split: Split, n_tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """First targets and sizes of evenly spaced chunks, the first and the last at the ends of the split."""
    size = min(CHUNK, n_tokens)
    count = n_tokens // size
    starts = 1 + np.arange(count) * (split.n_targets - size) // max(count - 1, 1)
    return starts, np.full(count, size, dtype=np.int64)


def subset_hash(split: Split) -> str:
    """sha256 over the tokens and document offsets of a split, recorded beside the scores on it."""
    digest = hashlib.sha256()
    for values in (split.tokens, split.doc_starts):
        digest.update(np.ascontiguousarray(values, dtype=values.dtype.newbyteorder("<")).data)
    return digest.hexdigest()
