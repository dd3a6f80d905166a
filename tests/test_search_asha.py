"""ASHA's rule, without Ray."""

from __future__ import annotations

import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.asha import Asha, Decision, rebuild
from search.study import read_study
from tests import journals

VALUES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=60)
FACTORS = st.integers(2, 6)


@given(values=VALUES, factor=FACTORS)
def test_the_best_so_far_is_never_stopped(values: list[float], factor: int) -> None:
    asha = Asha(factor)
    for trial, value in enumerate(values):
        decision = asha.report(trial, 1000, value)
        if value <= min(values[: trial + 1]):
            assert decision.action == "continue"


@given(values=VALUES, factor=FACTORS)
def test_exactly_the_best_share_so_far_goes_on(values: list[float], factor: int) -> None:
    asha = Asha(factor)
    for trial, value in enumerate(values):
        decision = asha.report(trial, 1000, value)
        better = sum(other < value for other in values[:trial])
        assert decision.of == trial + 1
        assert (decision.action == "continue") == (better < max(1, decision.of // factor))


@given(value=st.floats(-1e6, 1e6), n=st.integers(1, 30), factor=FACTORS)
def test_who_ties_goes_on(value: float, n: int, factor: int) -> None:
    asha = Asha(factor)
    assert {asha.report(trial, 1, value).action for trial in range(n)} == {"continue"}


@given(values=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30), seed=st.integers(0, 99), factor=FACTORS)
def test_the_last_to_arrive_is_judged_alike_in_whatever_order_the_others_came(
    values: list[float], seed: int, factor: int
) -> None:
    def last(order: list[float]) -> Decision:
        asha = Asha(factor)
        for trial, value in enumerate(order):
            asha.report(trial, 1, value)
        return asha.report(len(order), 1, values[-1])

    others = values[:-1]
    mixed = random.Random(seed).sample(others, len(others))
    assert last(others) == last(mixed)


@given(reports=st.lists(st.tuples(st.sampled_from([1, 4, 16]), st.floats(-10, 10)), max_size=60))
def test_a_value_counts_at_its_own_rung_only(reports: list[tuple[int, float]]) -> None:
    together, apart = Asha(3), {rung: Asha(3) for rung in (1, 4, 16)}
    for trial, (rung, value) in enumerate(reports):
        assert together.report(trial, rung, value) == apart[rung].report(trial, rung, value)


def test_a_late_good_value_does_not_fill_the_rungs_below() -> None:
    asha = Asha(2)
    asha.report(0, 16, -9.0)  # a large step that crossed rungs 1 and 4
    assert asha.report(1, 4, 5.0).of == 1
    assert asha.report(2, 1, 5.0).action == "continue"


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_the_share_of_survivors_in_random_order_is_as_documented(factor: int) -> None:
    n, rounds = 32, 400
    rng = random.Random(0)
    going = 0
    for _ in range(rounds):
        asha = Asha(factor)
        values = [rng.random() for _ in range(n)]
        going += sum(asha.report(trial, 1, value).action == "continue" for trial, value in enumerate(values))
    expected = sum(max(1, i // factor) / i for i in range(1, n + 1))
    assert going / rounds == pytest.approx(expected, abs=0.4)  # sd of the mean about 0.1


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_in_no_rung(value: float) -> None:
    asha = Asha(2)
    with pytest.raises(ValueError, match=r"trial 0 reports .* at rung 1"):
        asha.report(0, 1, value)
    assert asha.report(1, 1, 5.0).of == 1


def test_a_trial_that_comes_again_keeps_its_decision_and_counts_once() -> None:
    asha = Asha(2)
    first = asha.report(0, 1, 5.0)
    asha.report(1, 1, 1.0)
    assert asha.report(0, 1, 99.0) == first
    assert asha.report(2, 1, 0.5).of == 3


def test_factor_one_would_stop_nobody() -> None:
    with pytest.raises(ValueError, match="factor is 1"):
        Asha(1)


@pytest.mark.parametrize("factor", [2, 4])
def test_rebuilt_from_the_journal_it_decides_as_if_it_had_never_stopped(tmp_path: Path, factor: int) -> None:
    ledger = journals.Ledger(tmp_path)
    ledger.write("study", **journals.header())
    asha, rng = Asha(factor), random.Random(factor)
    for number in range(12):
        journals.point(ledger, number, learning_rate=1e-3)
        made = asha.report(number, 1000, rng.gauss(0, 1))
        fields = {"action": made.action, "value": made.value, "cutoff": made.cutoff, "of": made.of}
        ledger.write("decision", trial=number, rung=1000, **fields)
    ledger.close()
    again = rebuild(factor, read_study(tmp_path))
    for number in range(20):  # those decided upon keep their decision, new ones get the same
        value = rng.gauss(0, 1)
        assert again.report(number, 1000, value) == asha.report(number, 1000, value)
