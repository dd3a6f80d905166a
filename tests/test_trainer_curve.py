"""A run's curve: which points belong together, and where over-fitting begins."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trainer import curve

LOSSES = st.floats(0.1, 10)
RUNS = st.lists(st.tuples(LOSSES, LOSSES), min_size=1, max_size=12)


def reports(pairs: list[tuple[float, float]], full: float | None = None, subset: float | None = None) -> list[Any]:
    """Of (validation, training) losses every 100 tokens; with `full` the last one is final and has it as val_loss."""
    made = [
        {"tokens": 100 * i, "final": False, "metrics": {"val_loss": val, "train_loss": train}}
        for i, (val, train) in enumerate(pairs, 1)
    ]
    if full is not None:
        last = {"val_loss": full, "val_loss_subset": pairs[-1][0] if subset is None else subset}
        made[-1] = {**made[-1], "final": True, "metrics": {**made[-1]["metrics"], **last}}
    return made


@given(RUNS)
def test_the_curve_is_of_the_subset_alone_and_the_full_split_stands_beside_it(pairs: list[tuple[float, float]]) -> None:
    unequal = [(val + 20 * i, train) for i, (val, train) in enumerate(pairs)]
    found = curve.of(reports(unequal, full=999.0))
    assert found.val == tuple((100 * i, val) for i, (val, _) in enumerate(unequal, 1))
    assert found.train == tuple((100 * i, train) for i, (_, train) in enumerate(unequal, 1))
    assert (found.end, found.length) == ((100 * len(pairs), 999.0), 100 * len(pairs))


def test_a_curve_has_the_numbers_of_a_real_run() -> None:
    _, made = tiny.run(tiny.config())
    found = curve.of([{"tokens": r.tokens, "final": r.final, "metrics": r.metrics} for r in made])
    *way, last = made
    assert found.val == (*((r.tokens, r.metrics["val_loss"]) for r in way), (2560, last.metrics["val_loss_subset"]))
    assert found.end == (2560, last.metrics["val_loss"])


def test_after_an_early_stop_the_full_value_stands_at_the_weights_that_were_scored() -> None:
    result, made = tiny.run(tiny.config(early_stop=2, **tiny.RUINOUS))
    assert result.status == "early_stopped"
    found = curve.of([{"tokens": r.tokens, "final": r.final, "metrics": r.metrics} for r in made])
    assert found.end == (result.best["tokens"], result.metrics["val_loss"])
    assert [at for at, _ in found.val] == [report.tokens for report in made[:-1]]  # the end's is not measured


@given(RUNS)
def test_over_fitting_begins_at_the_least_validation_loss_from_which_it_rises_and_training_falls(
    pairs: list[tuple[float, float]],
) -> None:
    found = curve.of(reports(pairs, full=5.0, subset=pairs[-1][0]))
    values, train = dict(found.val), dict(found.train)
    at = curve.overfitting(found)
    if at is not None:
        assert values[at] == min(values.values())
        last = max(values)
        assert values[last] > values[at]
        assert train[last] < train[at]
        assert curve.sentence(found).endswith("over-fitting from there")
    else:
        assert not curve.sentence(found).endswith("over-fitting from there")


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([(3, 3), (2, 2), (1, 1)], "validation loss is lowest at the last report: no over-fitting seen"),
        (
            [(3, 3), (1, 2), (2, 1)],
            "validation loss is lowest at 200 of 300 tokens (1; 2 at the last report): over-fitting from there",
        ),
        ([(3, 3), (2, 2), (2.001, 1)], "(2; 2.001 at the last report): level from there"),
        ([(3, 3), (1, 2), (2, 2.5)], "and the training loss rose too: not over-fitting"),
        ([(3, 3)], ""),
    ],
)
def test_the_sentence_tells_over_fitting_from_what_looks_like_it(pairs: list[tuple[float, float]], said: str) -> None:
    assert curve.sentence(curve.of(reports(pairs))).endswith(said)


def test_numbers_that_are_not_finite_are_no_points() -> None:
    made = reports([(3, 3), (math.nan, math.inf), (2, 2)], full=math.inf)
    found = curve.of(made)
    assert [at for at, _ in found.val] == [at for at, _ in found.train] == [100, 300]
    assert found.end is None


def test_another_metric_has_neither_a_training_loss_nor_a_value_of_the_subset_at_the_end() -> None:
    made = [
        {"tokens": 1, "final": False, "metrics": {"val_bits_per_byte": 2.0, "train_loss": 1.0}},
        {"tokens": 2, "final": True, "metrics": {"val_bits_per_byte": 1.5, "train_loss": 1.0, "val_loss_subset": 9.0}},
    ]
    assert curve.of(made, "val_bits_per_byte") == curve.Curve(((1, 2.0),), (), (2, 1.5), 2)
