"""Token arrays as read by a trainer: rows by number, every target once, fixed subsets."""

from __future__ import annotations

import time

import numpy as np
import pytest

from data.dataset import Split
from data.tokens import Batches, Order, eval_batches, subset, subset_hash
from tests.refusals import facts, refusal

EOT = 0


def stream(lengths: list[int], dtype: str = "uint16") -> Split:
    """Documents of the given lengths (without EOT); every token is its own place, so that any mix-up shows."""
    ends = 1 + np.cumsum(np.array(lengths) + 1)
    tokens = np.arange(ends[-1]).astype(dtype)
    tokens[np.concatenate([[0], ends - 1])] = EOT
    return Split(tokens, np.concatenate([[1], ends]), floor_nll=np.arange(len(lengths)) * 1.5)


def single(n: int) -> Split:
    return Split(np.arange(n, dtype=np.uint32), np.array([1, n]))


@pytest.mark.parametrize("order", ["random", "epoch", "sequential"])
@pytest.mark.parametrize("parts", [[40], [1] * 40, [13, 0, 20, 7]])
def test_a_row_is_a_function_of_its_number(order: Order, parts: list[int]) -> None:
    """Whoever asks, in whatever pieces and order: ranks, micro-batches and resumed runs see the same rows."""
    split = single(1000)
    x, y = Batches(split, 30, order, seed=3).rows(50, 40)
    first, found = 50, []
    for count in parts:
        found.append((first, Batches(split, 30, order, seed=3).rows(first, count)))
        first += count
    assert np.array_equal(np.concatenate([part[0] for _, part in found]), x)
    assert np.array_equal(np.concatenate([part[1] for _, part in found]), y)
    again = Batches(split, 30, order, seed=3)
    for start, part in reversed(found):
        assert np.array_equal(again.rows(start, len(part[0]))[0], part[0])


@pytest.mark.parametrize("order", ["random", "epoch", "sequential"])
@pytest.mark.parametrize("split", [single(1000), stream([5, 80, 3, 200])], ids=["single", "several"])
def test_targets_are_the_next_tokens(order: Order, split: Split) -> None:
    x, y = Batches(split, 16, order, seed=1).rows(0, 300)
    assert x.shape == y.shape == (300, 16)
    assert x.dtype == y.dtype == np.int64
    assert np.array_equal(y, np.where(x == EOT, y, split.tokens[(x + 1) % len(split.tokens)]))
    if split.n_docs > 1 or order != "epoch":  # else the ring has a seam, in one window of an epoch
        assert np.array_equal(x[:, 1:], y[:, :-1])
    assert x.flags.c_contiguous
    assert y.flags.c_contiguous


def test_random_rows_are_nanogpts_windows() -> None:
    """Uniform over all len - block_size places, as torch.randint there; the last token is a target sometimes."""
    x, y = Batches(single(60), 10, "random", seed=1).rows(0, 20_000)
    counts = np.bincount(x[:, 0], minlength=60)
    assert np.array_equal(y - x, np.ones_like(x))
    assert (counts[:50] > 300).all()
    assert (counts[:50] < 500).all()
    assert counts[50:].sum() == 0


@pytest.mark.parametrize("n", [1000, 991, 902, 101, 31])  # 30 divides 990
def test_an_epoch_visits_every_target_at_most_once_and_drops_less_than_a_block(n: int) -> None:
    batches = Batches(single(n), 30, "epoch", seed=1)
    windows = batches.tokens_per_epoch // 30
    dropped = []
    for epoch in range(4):
        _, y = batches.rows(epoch * windows, windows)
        assert len(np.unique(y)) == y.size == batches.tokens_per_epoch
        dropped.append(frozenset(range(1, n)) - set(y.ravel().tolist()))
        assert len(dropped[-1]) == (n - 1) % 30
    if n in (1000, 101):
        assert len(set(dropped)) == 4


def test_an_epoch_of_documents_joins_its_ends_at_an_end_of_text() -> None:
    split = stream([50, 60, 70])
    x, y = Batches(split, 20, "epoch", seed=1).rows(0, 900)
    place = np.where(x == EOT, -1, x)
    seam = (x[:, :-1] == split.tokens[-2]) & (x[:, 1:] == EOT)
    assert seam.any()
    for row, column in np.argwhere(seam[:, :-1]):
        assert y[row, column] == EOT
        assert place[row, column + 2] == 1  # the first token of the first document


def test_epochs_and_seeds_differ() -> None:
    def rows(order: Order, seed: int, first: int) -> bytes:
        return Batches(single(1000), 30, order, seed).rows(first, 20)[0].tobytes()

    for order in ("random", "epoch"):
        found = {rows(order, seed, first) for seed in (0, 1, 2**63, 2**64 - 1) for first in (0, 33, 66)}
        assert len(found) == 12


def test_the_rows_of_a_seed_never_change() -> None:
    """A golden value: equal seeds give equal batches under every version of numpy and of this program."""
    assert Batches(single(1000), 4, "random", seed=1337).rows(7, 3)[0][:, 0].tolist() == [719, 884, 542]
    assert Batches(single(1000), 4, "epoch", seed=1337).rows(7, 3)[0][:, 0].tolist() == [713, 585, 46]


@pytest.mark.parametrize("order", ["random", "epoch"])
def test_rows_are_cheap(order: Order) -> None:
    batches = Batches(single(1_000_000), 64, order, seed=1)
    batches.rows(0, 12)
    fastest = min(_seconds(batches, step) for step in range(200))
    assert fastest < 1e-4


def _seconds(batches: Batches, step: int) -> float:
    start = time.perf_counter()
    batches.rows(step * 12, 12)
    return time.perf_counter() - start


@pytest.mark.parametrize("order", ["random", "epoch"])
def test_a_split_shorter_than_a_block_is_refused(order: Order) -> None:
    Batches(single(11), 10, order, seed=1).rows(0, 5)
    error = refusal(lambda: Batches(single(10), 10, order, seed=1))
    assert facts(error) == ("too_short", ("block_size",), None)
    assert str(error) == (
        "the split has 10 tokens, fewer than one block (block_size 10 + 1): lower block_size or give more text"
    )


@pytest.mark.parametrize(("rows_per_step", "windows"), [(1, 19), (4, 16), (19, 19)])
def test_seven_epochs_in_sequence_visit_each_window_of_whole_steps_seven_times_in_order(
    rows_per_step: int, windows: int
) -> None:
    split = single(200)
    batches = Batches(split, 10, "sequential", 1337, rows_per_step)
    assert batches.tokens_per_epoch == windows * 10
    x, y = batches.rows(0, 7 * windows)
    assert x.reshape(7, -1).tolist() == [list(range(windows * 10))] * 7
    assert np.array_equal(y, x + 1)
    assert np.array_equal(Batches(split, 10, "sequential", 1, rows_per_step).rows(0, 7 * windows)[0], x)  # no luck


def test_a_sequence_shorter_than_a_step_is_refused() -> None:
    Batches(single(41), 10, "sequential", 1, rows_per_step=4)
    error = refusal(lambda: Batches(single(40), 10, "sequential", 1, rows_per_step=4))
    assert facts(error) == ("too_short", ("batch_size",), None)
    assert str(error) == (
        "the split has 40 tokens, fewer than one step of data_order: sequential (4 sequences of 10, + 1): lower "
        "batch_size or give more text"
    )


def test_an_unknown_order_is_refused() -> None:
    error = refusal(lambda: Batches(single(100), 10, "randon", seed=1))  # type: ignore[arg-type]
    assert facts(error) == ("unknown", ("data_order",), None)
    assert str(error) == "data_order: randon is not known; did you mean random?"


@pytest.mark.parametrize("context", [1, 7, 10, 64, 99, 100, 500])
@pytest.mark.parametrize("batch_size", [1, 3, 16])
def test_an_evaluation_scores_every_target_once_in_order(context: int, batch_size: int) -> None:
    split = single(101)
    seen: list[int] = []
    for x, y, at in eval_batches(split, context, batch_size):
        assert np.array_equal(y, split.tokens[at + 1])
        assert np.array_equal(x + 1, y)
        assert y.shape[1] == context or y.shape[0] == 1
        assert len(y) <= batch_size
        seen += y.ravel().tolist()
    assert seen == list(range(1, 101))


@pytest.mark.parametrize("n", [2, 5, 12, 13, 40, 101])
@pytest.mark.parametrize(("context", "stride"), [(12, 1), (12, 5), (12, 6), (12, 11), (12, 12), (1, 1)])
def test_overlapping_windows_give_every_target_once_and_enough_history(n: int, context: int, stride: int) -> None:
    split = single(n)
    seen: list[int] = []
    for x, y, at in eval_batches(split, context, 4, stride):
        assert x.shape[1] <= context
        assert np.array_equal(y, split.tokens[at + 1])
        for row, places in zip(x, at, strict=True):
            assert row[-1] == places[-1]  # the tokens of `single` are their own places
            for place in places:
                assert row[0] <= place, "the token before the target is in the window"
                assert place - row[0] >= min(place, context - stride)
        seen += at.ravel().tolist()
    assert sorted(seen) == list(range(n - 1))
    assert seen == sorted(seen)


@pytest.mark.parametrize("stride", [3, 8])
def test_only_windows_with_a_wanted_target_are_read(stride: int) -> None:
    split, wanted = single(100), np.zeros(99, dtype=np.bool_)
    wanted[[0, 30, 31, 98]] = True
    everything = [places.tolist() for _, _, at in eval_batches(split, 8, 1, stride) for places in at]
    found = [places.tolist() for _, _, at in eval_batches(split, 8, 5, stride, wanted) for places in at]
    assert found == [places for places in everything if wanted[places].any()]
    assert 3 <= len(found) <= 4


def test_windows_of_an_evaluation_do_not_depend_on_its_batch_size() -> None:
    def windows(batch_size: int, stride: int) -> list[list[int]]:
        return [row.tolist() for x, _, _ in eval_batches(single(1000), 64, batch_size, stride) for row in x]

    for stride in (64, 20):
        assert windows(1, stride) == windows(5, stride) == windows(1000, stride)


def test_a_subset_is_whole_documents_with_their_floor() -> None:
    split = stream([i % 13 for i in range(500)])
    part = subset(split, 1000)
    assert 980 <= part.n_targets <= 1000
    assert part.tokens.dtype == split.tokens.dtype
    assert part.tokens[0] == part.tokens[-1] == EOT
    assert part.doc_starts[0] == 1
    assert part.doc_starts[-1] == len(part.tokens)
    assert part.floor_nll is not None
    chosen = (part.floor_nll / 1.5).astype(int)
    assert (np.diff(chosen) > 0).all()
    assert np.ptp(chosen) > 400  # from all over the split
    for d, source in enumerate(chosen):
        document = part.tokens[part.doc_starts[d] : part.doc_starts[d + 1]]
        assert np.array_equal(document, split.tokens[split.doc_starts[source] : split.doc_starts[source + 1]])


def test_a_subset_of_one_document_is_evenly_spaced_chunks() -> None:
    part = subset(single(100_000), 5000)
    assert part.n_docs == 4
    assert np.diff(part.doc_starts).tolist() == [1024] * 4
    targets = part.tokens[1:].reshape(4, 1024)
    assert (np.diff(targets) == 1).all()
    assert targets[:, 0].tolist() == [1, 32992, 65984, 98976]
    assert targets[-1, -1] == 99_999
    assert part.tokens[0] == 0


@pytest.mark.parametrize("n_tokens", [1, 100, 1023, 1024, 2047, 2048, 9998])
def test_a_subset_of_one_document_has_no_target_twice(n_tokens: int) -> None:
    part = subset(single(10_000), n_tokens)
    assert 0 < part.n_targets <= n_tokens
    assert len(np.unique(part.tokens[1:])) == part.n_targets
    assert part.doc_starts[-1] == len(part.tokens)


def test_a_subset_of_documents_longer_than_itself_is_chunks() -> None:
    part = subset(stream([30_000, 25_000], "uint32"), 4096)
    assert part.n_targets == 4096
    assert part.floor_nll is None


@pytest.mark.parametrize("n_tokens", [999, 1000, 10**9])
def test_a_subset_that_is_not_smaller_is_the_split_itself(n_tokens: int) -> None:
    split = single(1000)
    assert subset(split, n_tokens) is split


def test_the_same_subset_has_the_same_hash() -> None:
    split = stream([i % 13 for i in range(500)])
    assert subset_hash(subset(split, 500)) == subset_hash(subset(stream([i % 13 for i in range(500)]), 500))
    assert subset_hash(subset(split, 500)) != subset_hash(subset(split, 600))
    assert subset_hash(subset(split, 500)) != subset_hash(split)
