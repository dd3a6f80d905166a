"""Whether the leader is significantly better: trials compared given the noise of seeds and of text. Pure functions.

Values are nats per token (log-perplexity) or bits per byte; lower is better. Finalists are repeated with fresh seeds,
all with the same seed in a round, and some are dropped from the race early: value = trial + round + residual, fitted by
least squares. The search's own value of a finalist is left out, because the finalist was selected for it.

A difference has two independent sources of noise, so their variances add: the residual over seeds, and the choice of
documents (paired, over the mean of the seeds; their interaction is counted twice, which makes the interval a little too
wide: Owen 2007, The pigeonhole bootstrap). Degrees of freedom are Satterthwaite's. The leader is the best of k, so its
largest lead is distributed as a studentized range: intervals are Tukey-Kramer's, and copies of one config form one
group in at least 95 of 100 studies, whichever leads. Of the 5 % error, 1 % is spent on the race with its interim looks:
with all 5 % spent here, the looks raised the error to 6 to 8 % in simulation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from trainer.resampling import Interval, Text

# error rates, the share of studies of identical configs with more than one group: by the race's looks, by the table
RACE, TABLE = 0.01, 0.04
_95 = 0.975  # quantile of a two-sided 95 % interval
# degrees of freedom as in printed tables, rounded down to one of these: scipy takes 0.1 s per quantile, and each row of
# a leaderboard needs one
_DF = (*range(1, 11), 12, 15, 20, 24, 30, 40, 60, 120, 1000)


@dataclass(frozen=True)
class Noise:
    """A variance estimate with its degrees of freedom, 0 where there is no estimate."""

    variance: float = 0.0
    df: float = 0.0

    def times(self, factor: float) -> Noise:
        return Noise(self.variance * factor, self.df)


@dataclass(frozen=True)
class Seeds:
    """The additive model fitted to finalists' runs with fresh seeds.

    means: by trial, over all rounds; that of a finalist dropped early is adjusted for the seeds that it missed. runs:
    number of runs by trial. residual: noise of one run that neither trial nor round explains (for differences within a
    round). total: noise of one run with the round effect included (a single trial's spread over seeds). inverse: of the
    matrix of the normal equations, (trials + rounds, trials + rounds), trials first.
    """

    means: dict[int, float]
    runs: dict[int, int]
    residual: Noise
    total: Noise
    inverse: np.ndarray

    def of_difference(self, first: int, second: int) -> Noise:
        """The noise of the difference between two means, or between trials with only the search's own run."""
        paired = self.residual if self.residual.df else self.total
        if first in self.means and second in self.means and self.residual.df:
            contrast = np.zeros(len(self.inverse))
            contrast[list(self.means).index(first)] = 1
            contrast[list(self.means).index(second)] -= 1
            return paired.times(float(contrast @ self.inverse @ contrast))
        if first not in self.means and second not in self.means:
            return paired.times(2)  # all trials of the search have the same seed
        return self.total.times(1 / self.runs.get(first, 1) + 1 / self.runs.get(second, 1))


@dataclass(frozen=True)
class Standing:
    """A trial's row on the leaderboard.

    runs: number of fresh seeds in the value, 0 where it is the search's own value. seed: 95 % interval of the mean over
    seeds; documents: 95 % interval of the value over the choice of text; None where there is no estimate. difference:
    from the leader; interval: of the difference, corrected for multiple comparisons, None without an estimate of noise;
    text_only: whether it lacks the noise of seeds. group: from 1, shared by trials that are not significantly worse
    than the best of the group. one_seed: fewer than two fresh seeds, so the rank may be due to luck.
    """

    number: int
    runs: int
    value: float
    seed: Interval | None
    documents: Interval | None
    difference: float
    interval: Interval | None
    text_only: bool
    group: int
    one_seed: bool


@np.errstate(over="ignore", invalid="ignore")  # of huge values the noise is infinite
def fit(values: Mapping[int, Sequence[float]]) -> Seeds:
    """Fit the additive model. values: by trial, one per round from the first without gaps; finite, of any length."""
    kept = {number: list(scores) for number, scores in values.items() if scores}
    if not kept:
        return Seeds({}, {}, Noise(), Noise(), np.zeros((0, 0)))
    k, rounds = len(kept), max(map(len, kept.values()))
    cells = [(i, r, value) for i, scores in enumerate(kept.values()) for r, value in enumerate(scores)]
    design, y = np.zeros((len(cells), k + rounds)), np.array([value for _, _, value in cells])
    for row, (i, r, _) in enumerate(cells):
        design[row, [i, k + r]] = 1
    inverse = np.linalg.pinv(design.T @ design)
    effects = inverse @ design.T @ y
    means = effects[:k] + effects[k:].mean()
    within = sum(float(np.var(scores)) * len(scores) for scores in kept.values())
    unexplained = min(within, float(((y - design @ effects) ** 2).sum()))
    df_within, df_rounds = len(y) - k, rounds - 1
    df_left = df_within - df_rounds
    residual = Noise(unexplained / df_left, df_left) if df_left else Noise()
    parts = []
    if df_within:
        parts = [Noise((within - unexplained) / df_within, df_rounds), Noise(unexplained / df_within, df_left)]
    runs = {number: len(scores) for number, scores in kept.items()}
    return Seeds(dict(zip(kept, map(float, means), strict=True)), runs, residual, added(parts), inverse)


def added(parts: Iterable[Noise]) -> Noise:
    """The sum of independent noises, with Satterthwaite's degrees of freedom; those with df 0 are left out."""
    estimated = [part for part in parts if part.df]
    variance = sum(part.variance for part in estimated)
    df = max((part.df for part in estimated), default=0.0)
    # relative to the sum: the square of a large variance would overflow
    spread = sum((part.variance / variance) ** 2 / part.df for part in estimated) if 0 < variance < math.inf else 0.0
    return Noise(variance, 1 / spread if spread else df)


def margin(noise: Noise, compared: int, level: float = TABLE) -> float:
    """Half the width of the Tukey-Kramer interval of a difference among `compared` trials. level: family-wise error,
    the share of studies in which any of the intervals misses its true difference."""
    df = max((listed for listed in _DF if listed <= noise.df * (1 + 1e-9)), default=1)
    return _range_quantile(1 - level, compared, df) / math.sqrt(2) * math.sqrt(noise.variance)


@lru_cache(maxsize=4096)
def _range_quantile(probability: float, compared: int, df: int) -> float:
    from scipy.stats import studentized_range

    return float(studentized_range.ppf(probability, compared, df))


def compare_trials(
    values: Mapping[int, Sequence[float]],
    single: Mapping[int, float] | None = None,
    text: Text | None = None,
    among: Sequence[int] | None = None,
) -> list[Standing]:
    """The leaderboard's rows, best group first, in a group finalists first; by value where seed noise has no estimate.

    values: finalists by number, one value per fresh seed. single: trials that have only the search's own value; they
    never lead where there are finalists, since that value is optimistic. text: trials' values on resampled documents,
    for trials with scores by document; `single` and `values` are on the same scale.
    among: compare only these (the best of each loss, say); the noise of seeds is estimated from all finalists.
    """
    seeds, others = fit(values), dict(single or {})
    value = {**seeds.means, **others}
    order = [*sorted(seeds.means, key=lambda number: value[number]), *sorted(others, key=lambda number: others[number])]
    order = [number for number in order if among is None or number in among]
    groups = _groups(order, value, seeds, text)
    # groups are not shown without an estimate of seed noise, and an order by hidden groups would look wrong
    ranked = sorted(order, key=lambda number: groups[number]) if seeds.total.df else order
    return [_standing(number, order, groups[number], value, seeds, text) for number in ranked]


def _noise(first: int, second: int, seeds: Seeds, text: Text | None) -> Noise:
    parts = [seeds.of_difference(first, second)]
    if text is not None and first in text and second in text:
        parts.append(Noise(text.variance(first, second), text.units - 1))
    return added(parts)


def _half(first: int, second: int, order: list[int], seeds: Seeds, text: Text | None) -> float:
    """Half the width of the difference's interval; infinite where its noise has no estimate."""
    noise = _noise(first, second, seeds, text)
    both = first in seeds.means and second in seeds.means
    compared = sum(number in seeds.means for number in order) if both else len(order)
    return margin(noise, compared) if noise.df else math.inf


def _groups(order: list[int], value: dict[int, float], seeds: Seeds, text: Text | None) -> dict[int, int]:
    """Group numbers by trial: a group is the best remaining trial and all that are not significantly worse."""
    groups: dict[int, int] = {}
    left = order
    while left:
        group = max(groups.values(), default=0) + 1
        same = [n for n in left if n == left[0] or value[n] - value[left[0]] <= _half(n, left[0], order, seeds, text)]
        groups.update(dict.fromkeys(same, group))
        left = [number for number in left if number not in groups]
    return groups


def _standing(
    number: int, order: list[int], group: int, value: dict[int, float], seeds: Seeds, text: Text | None
) -> Standing:
    leader, runs = order[0], seeds.runs.get(number, 0)
    difference = value[number] - value[leader]
    half = math.inf if number == leader else _half(number, leader, order, seeds, text)
    own = None
    if seeds.total.df:
        from scipy.stats import t

        reach = float(t.ppf(_95, seeds.total.df)) * math.sqrt(seeds.total.variance / max(1, runs))
        own = Interval(value[number] - reach, value[number] + reach)
    return Standing(
        number=number,
        runs=runs,
        value=value[number],
        seed=own,
        documents=text.interval(number) if text is not None and number in text else None,
        difference=difference,
        interval=Interval(difference - half, difference + half) if math.isfinite(half) else None,
        text_only=math.isfinite(half) and not seeds.of_difference(number, leader).df,
        group=group,
        one_seed=runs < 2,
    )
