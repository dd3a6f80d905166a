"""Bootstrap over validation documents, paired between trials: how much a score depends on the choice of text. Pure.

All trials are evaluated on the same resamples, so that what makes a document hard for all of them cancels in a
difference.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
# moving-block bootstrap for a corpus of one document: its text is divided into cells of 128 targets, and neighbouring
# cells are correlated. A block has at least 8 cells, and grows with the cube root of their number (Künsch 1989)
CELLS = 8
# more documents are drawn in groups of neighbours: 20,000 single ones take 8 s; with groups the error is exact to 2 %
PIECES = 2000
_AT_ONCE = 2**21  # counts in memory at once: 16 MiB


@dataclass(frozen=True)
class Interval:
    low: float
    high: float


@dataclass(frozen=True)
class Text:
    """Values of trials, sum(nll) / sum(weight) for each column, on the same resamples of the text.

    numbers: of the trials, by column; values: (resamples, trials); units: how many independent pieces were drawn.
    """

    numbers: tuple[int, ...]
    values: np.ndarray
    units: int

    def __contains__(self, number: int) -> bool:
        return number in self.numbers

    def column(self, number: int) -> np.ndarray:
        return self.values[:, self.numbers.index(number)]

    def interval(self, number: int, versus: int | None = None) -> Interval:
        """The middle 95 % of a trial's values, or of its differences from another.

        Percentiles, because they move with the scale: the exponential of these is the interval of the perplexity.
        """
        low, high = np.quantile(self._differences(number, versus), [0.025, 0.975])
        return Interval(float(low), float(high))

    def variance(self, number: int, versus: int | None = None) -> float:
        """Of a trial's value, or of its difference from another."""
        return float(np.var(self._differences(number, versus)))

    def _differences(self, number: int, versus: int | None) -> np.ndarray:
        return self.column(number) if versus is None else self.column(number) - self.column(versus)


def resample(
    documents: Mapping[int, tuple[np.ndarray, np.ndarray]],
    one_document: bool = False,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Text | None:
    """Draw resamples of the text, with replacement; None where it has fewer than two independent pieces.

    documents: by trial, (nll, weight), each (D,): for perplexity nats and tokens (values are log-perplexities), for
    bits per byte nats / ln 2 and bytes. All trials have the same documents in the same order; a trial with several
    seeds has the means over them. one_document: they are consecutive cells of one text, drawn in overlapping blocks.
    """
    sums = np.stack([part for pair in documents.values() for part in pair], axis=1).astype(float)  # (D, 2·trials)
    if len(sums) > PIECES:
        sums = np.add.reduceat(sums, np.arange(PIECES) * len(sums) // PIECES, axis=0)
    drawn = len(sums)
    if one_document:
        length = max(CELLS, round(len(sums) ** (1 / 3)))
        drawn = len(sums) // length
        if drawn >= 2:
            total = np.cumsum(np.vstack([np.zeros_like(sums[:1]), sums]), axis=0)
            sums = total[length:] - total[:-length]  # (starts, 2·trials)
    if drawn < 2:
        return None
    rng, parts = np.random.default_rng(seed), []
    at_once = max(1, _AT_ONCE // len(sums))
    for begin in range(0, resamples, at_once):
        rows = min(at_once, resamples - begin)
        parts.append(_counts(rng, rows, drawn, len(sums)) @ sums)
    both = np.concatenate(parts)
    return Text(tuple(documents), both[:, 0::2] / both[:, 1::2], drawn)


def _counts(rng: np.random.Generator, rows: int, drawn: int, pieces: int) -> np.ndarray:
    """How often each piece was drawn in each of `rows` resamples: (rows, pieces)."""
    indices = rng.integers(0, pieces, (rows, drawn))
    indices += pieces * np.arange(rows)[:, None]
    return np.bincount(indices.ravel(), minlength=rows * pieces).reshape(rows, pieces).astype(float)
