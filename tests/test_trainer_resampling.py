"""The bootstrap over documents: the interval holds, pairs cancel, one long text comes in blocks."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.resampling import PIECES, resample

Pair = tuple[np.ndarray, np.ndarray]


def texts(rng: np.random.Generator, n: int) -> Pair:
    """Documents of unequal length and difficulty; the truth is 2 nats per token."""
    weight = rng.integers(20, 200, n)
    return weight * (2 + 0.3 * rng.standard_normal(n)), weight


def test_its_error_is_the_ratios_own() -> None:
    nll, weight = texts(np.random.default_rng(0), 300)
    text = resample({0: (nll, weight)})
    assert text is not None
    ratio = nll.sum() / weight.sum()
    linear = np.sqrt(((nll - ratio * weight) ** 2).sum()) / weight.sum()
    assert text.variance(0) ** 0.5 == pytest.approx(linear, rel=0.03)
    assert text.interval(0).low < ratio < text.interval(0).high
    assert text.interval(0).high - text.interval(0).low == pytest.approx(2 * 1.96 * linear, rel=0.05)


def test_the_interval_holds_the_truth_in_95_of_100_cases() -> None:
    rng = np.random.default_rng(1)
    held = 0
    for _ in range(400):
        text = resample({0: texts(rng, 100)}, resamples=1000)
        assert text is not None
        held += text.interval(0).low <= 2 <= text.interval(0).high
    assert 0.92 <= held / 400 <= 0.975


def test_what_makes_a_document_hard_for_both_cancels_in_the_difference() -> None:
    rng = np.random.default_rng(2)
    nll, weight = texts(rng, 200)
    other = nll + weight * (0.05 + 0.01 * rng.standard_normal(200))
    text = resample({3: (nll, weight), 9: (other, weight)})
    assert text is not None
    assert text.variance(9, 3) < text.variance(9) / 100
    assert text.interval(9, 3).low > 0.04
    assert text.variance(9, 9) == 0
    assert (9 in text, 4 in text) == (True, False)


def test_neighbouring_cells_of_one_text_are_drawn_together() -> None:
    rng = np.random.default_rng(3)
    weight = np.full(800, 128)
    held = {True: 0, False: 0}
    for _ in range(200):
        slow = np.zeros(800)
        for i in range(1, 800):  # a text that stays hard or easy for a while
            slow[i] = 0.6 * slow[i - 1] + 0.1 * rng.standard_normal()
        for blocks in held:
            text = resample({0: (weight * (2 + slow), weight)}, one_document=blocks, resamples=500)
            assert text is not None
            held[blocks] += text.interval(0).low <= 2 <= text.interval(0).high
    assert held[False] < 0.8 * 200  # cell by cell the interval is half as wide as it should be
    assert held[True] >= 0.88 * 200


def test_many_documents_are_drawn_in_bundles_with_the_same_error() -> None:
    nll, weight = texts(np.random.default_rng(4), 10 * PIECES + 3)
    text = resample({0: (nll, weight)})
    assert text is not None
    ratio = nll.sum() / weight.sum()
    assert text.units == PIECES
    assert text.values.mean() == pytest.approx(ratio, abs=1e-4)
    assert text.variance(0) ** 0.5 == pytest.approx(
        np.sqrt(((nll - ratio * weight) ** 2).sum()) / weight.sum(), rel=0.08
    )


def test_the_same_seed_draws_the_same_text_and_too_little_text_says_nothing() -> None:
    pair = texts(np.random.default_rng(5), 40)
    first, second = resample({0: pair}), resample({0: pair, 1: pair})
    assert first is not None
    assert second is not None
    assert np.allclose(first.values[:, 0], second.values[:, 0])
    assert np.allclose(second.values[:, 0], second.values[:, 1])
    assert resample({0: (pair[0][:1], pair[1][:1])}) is None
    assert resample({0: (pair[0][:15], pair[1][:15])}, one_document=True) is None
