"""ASHA's rule, without Ray."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.spec.study_spec import StudySpec
from search.stopping.asha import Asha, AshaSettings
from search.stopping.rule import Decision
from search.strategy.stopping import rebuild
from search.study.study import read_study
from tests import journals, specs
from trainer.config import TrainConfig

Settings, bracket, exempt = AshaSettings, AshaSettings.bracket, AshaSettings.exempts
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


@pytest.mark.parametrize("mode", ["stop", "promote"])
@pytest.mark.parametrize("factor", [2, 4])
def test_rebuilt_from_the_journal_it_decides_as_if_it_had_never_stopped(
    tmp_path: Path, factor: int, mode: Literal["stop", "promote"]
) -> None:
    ledger = journals.Ledger(tmp_path)
    ledger.write("study", **journals.header())
    asha, rng = Asha(factor, mode), random.Random(factor)

    def write(trial: int, rung: int, made: Decision) -> None:
        fields = {"action": made.action, "value": made.value, "cutoff": made.cutoff, "of": made.of}
        ledger.write("decision", trial=trial, rung=rung, **fields)

    treated: dict[int, Any] = {
        number: {"bracket": number % 2, "exempt": number % 5 == 0, "group": "ab"[number // 2 % 2]}
        for number in range(20)
    }
    for number in range(12):
        config = TrainConfig(learning_rate=1e-3).model_dump()
        ledger.write("point", trial=number, point={"learning_rate": 1e-3}, config=config, **treated[number])
        write(number, 1000, asha.report(number, 1000, rng.gauss(0, 1), **treated[number]))
        if (found := asha.promotion()) is not None:
            about = treated[found[0]]
            write(*found, asha.promote(*found, bracket=about["bracket"], group=about["group"]))
    ledger.close()
    settings = {"asha": {"first_rung": 1000, "factor": factor, "mode": mode}}
    spec = StudySpec.model_validate(
        {**specs.space(learning_rate={"log": [1e-4, 1]}).model_dump(), "scheduler": settings}
    )
    again = rebuild(spec, read_study(tmp_path))
    assert again is not None
    assert again.promotion(last=True) == asha.promotion(last=True)
    for number in range(20):  # those decided upon keep their decision, new ones get the same
        value = rng.gauss(0, 1)
        assert again.report(number, 1000, value, **treated[number]) == asha.report(
            number, 1000, value, **treated[number]
        )


# promote: who is not among the best waits, and may continue later


@given(values=VALUES, factor=FACTORS)
def test_at_any_time_exactly_the_best_share_of_a_rung_has_gone_on_or_may(values: list[float], factor: int) -> None:
    asha = Asha(factor, "promote")
    going: set[int] = set()
    for trial, value in enumerate(values):
        if asha.report(trial, 1, value).action == "continue":
            going.add(trial)
        while (found := asha.promotion()) is not None:
            assert found[0] not in going
            going.add(found[0])
            asha.promote(*found)
        some = (trial + 1) // factor
        cutoff = sorted(values[: trial + 1])[some - 1] if some else -math.inf
        assert {t for t in range(trial + 1) if values[t] < cutoff} <= going
        assert len(going) >= some


def test_the_first_to_arrive_has_no_advantage_when_trials_pause() -> None:
    asha = Asha(2, "promote")
    assert asha.report(0, 1, 9.0).action == "pause"
    assert asha.promotion() is None
    assert asha.report(1, 1, 1.0).action == "continue"
    assert asha.report(2, 1, 2.0).action == "pause"
    assert asha.report(3, 1, 3.0).action == "pause"
    assert asha.promotion() == (2, 1)


def test_the_furthest_rung_is_promoted_first() -> None:
    asha = Asha(2, "promote")
    for trial, value in enumerate([9.0, 1.0, 2.0, 3.0]):
        asha.report(trial, 1, value)
    asha.report(1, 4, 5.0)
    asha.report(4, 4, 9.0)
    assert asha.promotion() == (1, 4)  # though 2 waits at rung 1 and has the smaller value
    asha.promote(1, 4)
    assert asha.promotion() == (2, 1)


def test_of_brackets_at_one_rung_the_first_is_promoted_first() -> None:
    asha = Asha(2, "promote")
    for bracket_ in (1, 0):
        for trial, value in enumerate([9.0, 1.0, 2.0, 3.0]):
            asha.report(trial + 10 * bracket_, 1, value, bracket=bracket_)
    assert asha.promotion() == (2, 1)
    asha.promote(2, 1)
    assert asha.promotion() == (12, 1)


def test_of_groups_at_one_rung_the_one_from_which_the_fewest_went_on_is_promoted_first() -> None:
    asha = Asha(2, "promote")
    for first, group, values in ((0, "a", [9.0, 1.0, 2.0, 3.0]), (10, "b", [2.0, 1.0, 9.0, 8.0])):
        for place, value in enumerate(values):
            asha.report(first + place, 1, value, group=group)
    asha.report(20, 1, 9.0, group="c")
    asha.report(21, 1, 9.5, group="c")  # nobody of c has gone on, one each of a and b
    assert asha.promotion() == (20, 1)
    asha.promote(20, 1, group="c")
    assert asha.promotion() == (2, 1)
    asha.promote(2, 1, group="a")  # two of a
    assert asha.promotion() == (10, 1)


def test_of_two_that_tie_the_first_is_promoted() -> None:
    asha = Asha(4, "promote")
    for trial in (2, 1, 0):
        asha.report(trial, 1, 5.0)
    assert asha.promotion(last=True) == (0, 1)


def test_an_exempt_trial_that_went_on_does_not_stand_for_a_promotion() -> None:
    asha = Asha(4, "promote")
    assert asha.report(0, 1, 9.0, exempt=True).action == "continue"
    asha.report(1, 1, 2.0)
    asha.report(2, 1, 1.0)
    assert asha.promotion(last=True) == (2, 1)
    restored = Asha(4, "promote")
    restored.restore(0, 1, asha.report(0, 1, 9.0), exempt=True)
    restored.restore(1, 1, asha.report(1, 1, 2.0))
    assert restored.promotion(last=True) == (1, 1)


def test_a_promotion_tells_the_rung_as_it_is_by_then() -> None:
    asha = Asha(2, "promote")
    for trial, value in enumerate([4.0, 9.0, 3.0, 8.0, 7.0]):
        asha.report(trial, 1, value)
    made = asha.promote(0, 1)
    assert (made.action, made.value, made.cutoff, made.of) == ("promote", 4.0, 4.0, 5)


def test_of_two_rungs_that_may_promote_the_further_one_does_and_says_the_rung_as_it_is_then() -> None:
    asha = Asha(2, "promote")
    for rung in (1, 4):
        for trial, value in enumerate([3.0, 5.0, 4.0, 6.0]):
            asha.report(10 * rung + trial, rung, value)
    assert asha.report(42, 4, 4.0) == Decision("pause", 4.0, 3.0, 3)
    assert [asha.promotion(), asha.promote(40, 4)] == [(40, 4), Decision("promote", 3.0, 4.0, 4)]
    assert [asha.promotion(), asha.promote(42, 4)] == [(42, 4), Decision("promote", 4.0, 4.0, 4)]
    assert asha.promotion() == (10, 1)


def test_where_nothing_else_can_run_the_best_of_a_rung_goes_on_and_only_once() -> None:
    asha = Asha(4, "promote")
    for trial, value in enumerate([3.0, 1.0, 2.0]):
        asha.report(trial, 1, value)
    assert asha.promotion() is None
    assert asha.promotion(last=True) == (1, 1)
    asha.promote(1, 1)
    assert asha.promotion(last=True) is None


def test_a_promoted_trial_that_comes_to_its_rung_again_goes_on() -> None:
    asha = Asha(2, "promote")
    asha.report(0, 1, 5.0)
    asha.promote(0, 1)
    assert asha.report(0, 1, 5.0).action == "promote"


# brackets and exempt trials


@pytest.mark.parametrize("mode", ["stop", "promote"])
def test_brackets_are_compared_apart(mode: Literal["stop", "promote"]) -> None:
    asha = Asha(2, mode)
    asha.report(0, 4, 1.0, bracket=0)
    assert asha.report(1, 4, 9.0, bracket=1).of == 1


def settings(**values: object) -> Settings:
    return Settings.model_validate({"first_rung": 1000, **values})


def test_brackets_are_drawn_with_hyperbands_shares() -> None:
    """Three, two and one halvings at factor 3: 27/4, 9/3 and 3/2."""
    n, shares = 20_000, [6.75, 3.0, 1.5]
    drawn = [bracket(settings(factor=3, brackets=3), 7, number, n_rungs=3) for number in range(n)]
    for b, share in enumerate(shares):
        assert drawn.count(b) / n == pytest.approx(share / sum(shares), abs=0.013)  # four standard deviations
    assert drawn != [bracket(settings(factor=3, brackets=3), 8, number, n_rungs=3) for number in range(n)]


def test_no_more_brackets_than_rungs() -> None:
    assert {bracket(settings(brackets=9), 7, number, n_rungs=2) for number in range(500)} == {0, 1}
    assert {bracket(settings(brackets=9), 7, number, n_rungs=0) for number in range(20)} == {0}


def test_groups_draw_brackets_and_exempt_trials_of_their_own() -> None:
    drawn = [[bracket(settings(brackets=2), 7, number, 3, group) for number in range(100)] for group in ("a", "b")]
    chosen = [[exempt(settings(), 7, number, group) for number in range(100)] for group in ("a", "b")]
    assert drawn[0] != drawn[1]
    assert chosen[0] != chosen[1]


@pytest.mark.parametrize("seed", range(20))
def test_three_of_the_first_eighteen_are_exempt_and_the_share_in_the_long_run(seed: int) -> None:
    chosen = [number for number in range(400) if exempt(settings(), seed, number)]
    assert [number // 6 for number in chosen if number < 18] == [0, 1, 2]  # one in each half dozen
    assert len(chosen) == 20
    assert sum(exempt(settings(exempt=0.5), seed, number) for number in range(400)) == 200


def test_the_share_may_be_nobody_or_everybody() -> None:
    assert not any(exempt(settings(exempt=0), 1, number) for number in range(100))
    assert all(exempt(settings(exempt=1), 1, number) for number in range(100))


@pytest.mark.parametrize("mode", ["stop", "promote"])
@given(values=VALUES)
def test_an_exempt_trial_goes_on_and_its_value_counts(mode: Literal["stop", "promote"], values: list[float]) -> None:
    asha, plain = Asha(2, mode), Asha(2, mode)
    for trial, value in enumerate(values):
        decision = asha.report(trial, 1, value, exempt=trial % 3 == 0)
        usual = plain.report(trial, 1, value)
        assert decision.action == ("continue" if trial % 3 == 0 else usual.action)
        assert (decision.cutoff, decision.of) == (usual.cutoff, usual.of)
