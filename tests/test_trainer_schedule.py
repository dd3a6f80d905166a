"""The learning rate's curve and the moments of reports: pure functions of the step."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest

from tests import tiny
from trainer.schedule import crossed, multiplier, n_steps, rung_reached

TOTAL = 1000


def curve(**changes: object) -> list[float]:
    settings = tiny.config(warmup_frac=0.1, **changes)
    return [multiplier(settings, step, TOTAL) for step in range(TOTAL)]


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd", "constant"])
def test_every_schedule_warms_up_to_its_peak_and_never_beyond(schedule: str) -> None:
    shares = curve(schedule=schedule)
    assert shares[0] == pytest.approx(1 / 101)  # nanoGPT's formula: the first step is not wasted
    assert all(a < b for a, b in pairwise(shares[:101]))
    assert max(shares) == shares[100] == 1.0


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_decaying_schedules_fall_to_the_floor(schedule: str) -> None:
    shares = curve(schedule=schedule, min_lr_frac=0.1)
    assert all(a >= b for a, b in pairwise(shares[100:]))
    assert 0.1 < shares[-1] < 0.11
    assert multiplier(tiny.config(schedule=schedule, min_lr_frac=0.1), TOTAL, TOTAL) == pytest.approx(0.1)


def test_cosine_is_nanogpts() -> None:
    def get_lr(it: int) -> float:  # karpathy/nanoGPT train.py, learning_rate 1, min_lr 0.1
        if it < 100:
            return (it + 1) / 101
        return 0.1 + 0.5 * (1.0 + math.cos(math.pi * (it - 100) / 900)) * 0.9

    assert curve(schedule="cosine", min_lr_frac=0.1) == pytest.approx([get_lr(it) for it in range(TOTAL)])


def test_wsd_holds_the_peak_then_decays_by_one_minus_sqrt() -> None:
    shares = curve(schedule="wsd", decay_frac=0.2, min_lr_frac=0.0)
    assert set(shares[100:801]) == {1.0}
    assert shares[850] == pytest.approx(1 - math.sqrt(50 / 200))


def test_a_short_and_a_long_run_walk_the_same_curve() -> None:
    settings = tiny.config(schedule="cosine", warmup_frac=0.1)
    short = [multiplier(settings, step, 1000) for step in range(0, 1000, 10)]
    long = [multiplier(settings, step, 100_000) for step in range(0, 100_000, 1000)]
    assert short[10:] == pytest.approx(long[10:])


def test_a_run_without_warm_up_begins_at_its_peak() -> None:
    assert multiplier(tiny.config(warmup_frac=0.0, schedule="constant"), 0, 1) == 1.0


def test_a_run_ends_at_the_first_step_boundary_at_or_after_its_length() -> None:
    assert [n_steps(tokens, 100) for tokens in (1, 99, 100, 101)] == [1, 1, 1, 2]


def test_every_multiple_and_every_rung_is_answered_once() -> None:
    boundaries = list(range(0, 1001, 70))
    steps = list(pairwise(boundaries))
    assert [after for before, after in steps if crossed(300, before, after)] == [350, 630, 910]
    answered = [(after, rung) for before, after in steps if (rung := rung_reached((140, 150, 200, 500), before, after))]
    assert answered == [(140, 140), (210, 200), (560, 500)]  # one step reaches 150 and 200, and answers the larger
