"""Groups, intervals and their coverage: in simulation, and on a recorded set of real runs (tests/nulls)."""

from __future__ import annotations

import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from search.stats.statistics import Noise, Standing, added, compare_trials, fit, margin
from search.strategy.finalists import in_doubt
from trainer.resampling import Text, resample

RECORDED = Path(__file__).with_name("nulls") / "recorded.json"


@cache
def recorded() -> dict[str, Any]:
    """tokens (D,); copies (72, D) and neighbours (24, D): nats of each document, a row per seed."""
    found = json.loads(RECORDED.read_text())
    return {name: np.array(found[name]) for name in ("tokens", "copies", "neighbours")}


def raced(values: np.ndarray) -> dict[int, list[float]]:
    """The race that would have been run, had these been its values. values: (trials, rounds)."""
    known: dict[int, list[float]] = {number: [] for number in range(len(values))}
    running = list(known)
    while running:
        for number in running:
            known[number].append(float(values[number, len(known[number])]))
        running = in_doubt(known, values.shape[1])
    return known


def fixed(values: np.ndarray) -> dict[int, list[float]]:
    return {number: list(map(float, row)) for number, row in enumerate(values)}


def groups(standings: list[Standing]) -> int:
    return max(standing.group for standing in standings)


# the fit


def test_where_all_ran_every_round_it_is_the_textbook() -> None:
    y = np.random.default_rng(0).standard_normal((4, 3))
    seeds = fit(fixed(y))
    residual = y - y.mean(1, keepdims=True) - y.mean(0) + y.mean()
    assert list(seeds.means.values()) == pytest.approx(list(y.mean(1)))
    assert seeds.residual.df == 6
    assert seeds.residual.variance == pytest.approx((residual**2).sum() / 6)
    assert seeds.total.variance == pytest.approx(y.var(1, ddof=1).mean())
    assert seeds.of_difference(0, 3).variance == pytest.approx(seeds.residual.variance * 2 / 3)
    within = ((y - y.mean(1, keepdims=True)) ** 2).sum()
    round_, rest = (within - (residual**2).sum()) / 8, (residual**2).sum() / 8  # of the 8 within, 2 and 6
    assert seeds.total.df == pytest.approx((round_ + rest) ** 2 / (round_**2 / 2 + rest**2 / 6))


def test_trials_with_the_searchs_seed_alone_differ_by_two_runs_of_one_seed() -> None:
    seeds = fit(fixed(np.random.default_rng(0).standard_normal((4, 3)) + 5 * np.arange(3)))
    assert seeds.residual.variance < seeds.total.variance / 10
    pair = seeds.of_difference(8, 9)
    assert (pair.variance, pair.df) == (pytest.approx(2 * seeds.residual.variance), 6)
    only = fit({0: [1.0, 1.2, 1.1]})  # no residual is known of one finalist
    pair = only.of_difference(8, 9)
    assert (pair.variance, pair.df) == (pytest.approx(2 * 0.01), 2)


def test_a_finalist_and_a_trial_of_another_seed_differ_by_both_seeds() -> None:
    seeds = fit({0: [1.0, 2.0, 9.0], 1: [1.1, 2.1, 9.1], 2: [1.5, 2.5]})
    for finalist, runs in ((0, 3), (2, 2)):
        for noise in (seeds.of_difference(finalist, 9), seeds.of_difference(9, finalist)):
            assert noise.variance == pytest.approx(seeds.total.variance * (1 / runs + 1))
            assert noise.df == seeds.total.df


def test_what_is_known_of_the_text_alone_has_as_many_degrees_of_freedom_as_pieces_less_one() -> None:
    drawn = np.random.default_rng(0).normal([1.0, 1.3], 0.1, (500, 2))
    text = Text((0, 1), drawn, 4)
    _, second = compare_trials({}, {0: 1.0, 1: 1.3}, text)
    assert second.interval is not None
    noise = Noise(float((drawn[:, 1] - drawn[:, 0]).var()), 3)
    assert second.interval.high - second.difference == pytest.approx(margin(noise, 2))


def test_an_interval_is_for_as_many_as_are_compared() -> None:
    """Finalists among themselves, and all together where a trial with one seed is one of the two."""
    values = fixed(np.random.default_rng(2).standard_normal((5, 4)))
    seeds = fit(values)

    def half(standing: Standing) -> float:
        assert standing.interval is not None
        return standing.interval.high - standing.difference

    found = {s.number: s for s in compare_trials(values, {8: 1.0, 9: 2.0})}
    leader = min(values, key=lambda number: seeds.means[number])
    for number in set(found) - {leader}:
        compared = 5 if number in values else 7
        assert half(found[number]) == pytest.approx(margin(seeds.of_difference(number, leader), compared))
    part = compare_trials(values, {8: 1.0, 9: 2.0}, among=[0, 1, 2, 8])
    for standing in part[1:]:
        compared = 3 if standing.number in values else 4
        noise = seeds.of_difference(standing.number, part[0].number)
        assert half(standing) == pytest.approx(margin(noise, compared))


def test_degrees_of_freedom_are_rounded_down_but_not_by_the_last_bit() -> None:
    assert margin(Noise(1.0, 4 * (1 - 1e-12)), 3) == margin(Noise(1.0, 4), 3)
    assert margin(Noise(1.0, 4.9), 3) == margin(Noise(1.0, 4), 3) > margin(Noise(1.0, 5), 3)
    assert margin(Noise(1.0, 0.5), 3) == margin(Noise(1.0, 1), 3)


def test_two_finalists_are_compared_by_the_paired_t_test() -> None:
    y = np.random.default_rng(1).standard_normal((2, 5))
    noise = fit(fixed(y)).of_difference(0, 1)
    known = stats.ttest_rel(y[0], y[1]).confidence_interval(0.96)
    assert margin(noise, 2) == pytest.approx((known.high - known.low) / 2)


def test_who_left_early_is_set_right_for_the_seeds_it_missed() -> None:
    whole = {1: [1.0, 2.0, 9.0], 2: [1.1, 2.1, 9.1], 3: [1.5, 2.5]}
    assert fit(whole).means == pytest.approx({1: 4.0, 2: 4.1, 3: 4.5})


def test_one_finalist_has_its_own_scatter_and_no_difference() -> None:
    (only,) = compare_trials({7: [1.0, 1.2, 1.1]})
    low, high = stats.t.interval(0.95, 2, loc=1.1, scale=0.1 / math.sqrt(3))
    assert only.seed is not None
    assert (only.seed.low, only.seed.high) == pytest.approx((low, high))
    assert (only.group, only.one_seed, only.interval) == (1, False, None)


def test_sources_add_and_the_least_known_counts() -> None:
    assert added([Noise(1.0, 4), Noise(0.0, 100)]) == Noise(1.0, 4)
    assert added([Noise(1.0, 4), Noise(1.0, 4)]).df == pytest.approx(8)
    assert added([Noise(), Noise(2.0, 3)]) == Noise(2.0, 3)
    assert added([Noise()]).df == 0
    assert added([Noise(0.0, 4), Noise(0.0, 9)]) == Noise(0.0, 9)


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_seed_intervals_hold_the_truth_whatever_the_seeds_share(shared: float) -> None:
    rng, held, n = np.random.default_rng(2), 0, 400
    for _ in range(n):
        y = rng.standard_normal((4, 4)) + shared * rng.standard_normal(4)
        held += sum(s.seed is not None and s.seed.low <= 0 <= s.seed.high for s in compare_trials(fixed(y)))
    assert 0.93 <= held / (4 * n) <= 0.975


def test_differences_hold_the_truth_over_seeds_and_text() -> None:
    """Two sources of equal size: either alone would hold it in far fewer cases."""
    rng, n, held = np.random.default_rng(3), 300, {"both": 0, "seeds": 0, "text": 0}
    weight = np.full(60, 100)
    for _ in range(n):
        easy = rng.standard_normal(60)  # for one of them: the choice of text, as large as that of the seeds
        nll = {i: weight * (3 + rng.standard_normal(60) * 0.01 + i * easy) for i in (0, 1)}
        moved = {i: float((nll[i] / weight).mean()) for i in (0, 1)}
        seeds = rng.standard_normal((2, 4)) * 0.18
        values = {i: [moved[i] + seed for seed in seeds[i]] for i in (0, 1)}
        text = resample({i: (nll[i] + weight * seeds[i].mean(), weight) for i in (0, 1)}, resamples=500)
        blank = {i: [0.0] for i in (0, 1)}
        for name, found in {
            "both": compare_trials(values, text=text),
            "seeds": compare_trials(values),
            "text": compare_trials({i: [float(np.mean(values[i]))] for i in blank}, text=text),
        }.items():
            interval = found[1].interval
            assert interval is not None
            held[name] += interval.low <= 0 <= interval.high
    assert 0.94 <= held["both"] / n <= 0.995
    assert held["text"] < 0.9 * n
    assert held["seeds"] < held["both"]


# trials with one seed


def test_without_fresh_seeds_only_the_text_speaks_and_every_row_says_so() -> None:
    weight = np.full(50, 100)
    nll = weight * (2 + 0.3 * np.random.default_rng(4).standard_normal(50))
    text = resample({1: (nll, weight), 2: (nll + 0.01 * weight, weight), 3: (nll + 30 * np.arange(50), weight)})
    values = {1: 2.0, 2: 2.01, 3: 9.35}
    assert text is not None
    found = compare_trials({}, values, text)
    assert [(s.number, s.one_seed, s.group) for s in found] == [(1, True, 1), (2, True, 2), (3, True, 3)]
    assert [s.text_only for s in found] == [False, True, True]  # the leader has no difference
    assert found[0].seed is None
    assert [s.group for s in compare_trials({}, values)] == [1, 1, 1]  # nothing is known: nothing is told apart


def test_without_fresh_seeds_the_order_is_that_of_the_values() -> None:
    rng = np.random.default_rng(1)
    drawn = {0: rng.normal(1.0, 0.001, 500), 1: rng.normal(1.03, 0.001, 500), 2: rng.normal(1.05, 0.2, 500)}
    text = Text(tuple(drawn), np.stack(list(drawn.values()), axis=1), 40)  # 2 is too noisy to tell from the first
    assert [s.number for s in compare_trials({}, {0: 1.0, 1: 1.03, 2: 1.05}, text)] == [0, 1, 2]


def test_a_trial_with_one_seed_is_judged_by_the_finalists_scatter_and_never_leads() -> None:
    finalists = {1: [2.00, 2.10, 2.05], 2: [2.01, 2.10, 2.06]}
    found = compare_trials(finalists, {3: 1.90, 4: 2.10, 5: 3.50})
    assert [s.number for s in found] == [1, 2, 3, 4, 5]
    assert [s.group for s in found] == [1, 1, 1, 1, 2]
    assert [s.one_seed for s in found] == [False, False, True, True, True]
    assert [s.runs for s in found] == [3, 3, 0, 0, 0]
    assert {s.number: s.one_seed for s in compare_trials({1: [2.0, 2.1], 2: [2.3]})} == {1: False, 2: True}
    assert found[2].difference == pytest.approx(1.90 - 2.05)
    assert not found[2].text_only


def test_a_trial_with_one_seed_stands_before_finalists_of_a_later_group() -> None:
    found = compare_trials({1: [2.00, 2.10, 2.05], 2: [5.00, 5.10, 5.06]}, {3: 2.04})
    assert [(s.number, s.group) for s in found] == [(1, 1), (3, 1), (2, 2)]


def test_a_part_is_compared_by_the_noise_that_all_finalists_show() -> None:
    rng = np.random.default_rng(3)
    values = {n: list(1.0 + 0.05 * n + 0.01 * rng.standard_normal(3)) for n in range(5)}
    part, alone = compare_trials(values, among=[0, 1]), compare_trials({n: values[n] for n in (0, 1)})
    assert [s.number for s in part] == [s.number for s in alone] == [0, 1]
    assert part[1].difference == pytest.approx(alone[1].difference)
    widths = [s[1].interval.high - s[1].interval.low for s in (part, alone) if s[1].interval is not None]
    assert widths[0] < 0.7 * widths[1]  # 8 degrees of freedom instead of 2
    assert compare_trials(values, among=[]) == []


def test_a_later_group_opens_with_the_best_of_the_rest() -> None:
    rows = {1: [1.0, 1.1, 1.0], 2: [5.0, 5.1, 5.1], 3: [5.01, 5.12, 5.1], 4: [9.0, 9.1, 9.0]}
    assert {s.number: s.group for s in compare_trials(rows)} == {1: 1, 2: 2, 3: 2, 4: 3}


# real runs


@pytest.mark.parametrize(("k", "rounds"), [(4, 3), (5, 3), (4, 5), (2, 3)])
@pytest.mark.parametrize("rule", [fixed, raced])
def test_copies_of_one_config_are_one_group_in_95_of_100_draws(k: int, rounds: int, rule: Any) -> None:
    data, rng, draws = recorded(), np.random.default_rng(6), 1000
    values = data["copies"].sum(1) / data["tokens"].sum()  # (72,) log-perplexities
    drawn = (rng.choice(values, (k, rounds), replace=False) for _ in range(draws))
    one = sum(groups(compare_trials(rule(each))) == 1 for each in drawn)
    assert one >= 0.95 * draws


def test_copies_are_one_group_with_their_documents_too() -> None:
    data, rng, draws = recorded(), np.random.default_rng(7), 150
    one = 0
    for _ in range(draws):
        chosen = rng.choice(len(data["copies"]), (4, 3), replace=False)
        one += groups(compare_trials(*documented(data["copies"][chosen], data["tokens"]))) == 1
    assert one >= 0.95 * draws


def documented(nll: np.ndarray, tokens: np.ndarray) -> tuple[dict[int, list[float]], None, Text | None]:
    """nll: (trials, rounds, D)."""
    values = fixed(nll.sum(2) / tokens.sum())
    return values, None, resample({i: (nll[i].mean(0), tokens) for i in values}, resamples=1000)


@pytest.mark.parametrize(
    ("rounds", "power"),
    [(3, {2: 0.1, 3: 0.3, 4: 0.65, 6: 0.95}), (5, {2: 0.25, 3: 0.75, 4: 0.95})],
)
def test_a_known_difference_is_found_with_the_power_stated(rounds: int, power: dict[int, float]) -> None:
    """One of four is better by so many seed standard deviations (0.032 nats here): it is a group by itself."""
    data, rng, draws = recorded(), np.random.default_rng(8), 300
    values = data["copies"].sum(1) / data["tokens"].sum()
    sd = values.std(ddof=1)
    for better, stated in power.items():
        alone = 0
        for _ in range(draws):
            drawn = rng.choice(values, (4, rounds), replace=False)
            drawn[2] -= better * sd
            found = compare_trials(raced(drawn))
            alone += found[0].number == 2 and found[1].group == 2
        assert stated <= alone / draws < stated + 0.2


def test_a_real_difference_is_found_where_the_seeds_suffice() -> None:
    """A neighbour's learning rate costs 0.04 nats, 1.4 seed deviations: not to be seen with 3 seeds, seen with 20."""
    data, rng = recorded(), np.random.default_rng(9)
    total = data["tokens"].sum()
    both = np.stack([data["copies"][:24].sum(1), data["neighbours"].sum(1)]) / total
    found = {n: np.mean([groups(compare_trials(fixed(both[:, rng.permutation(24)[:n]]))) == 2 for _ in range(100)])
             for n in (3, 20)}  # fmt: skip
    assert found[3] < 0.4
    assert found[20] > 0.95


def test_equal_seeds_make_equal_luck() -> None:
    """Runs that share a seed are alike: a difference within a round varies less than between rounds."""
    data = recorded()
    copies, neighbours = (data[name].sum(1)[:24] / data["tokens"].sum() for name in ("copies", "neighbours"))
    assert 0.2 < np.corrcoef(copies, neighbours)[0, 1] < 0.6
