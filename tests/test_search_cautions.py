"""What a careful person says of a search that has run, and when they keep quiet."""

from __future__ import annotations

import math
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2, kruskal, ncx2

from search.results.agreement import agreement
from search.results.cautions import cautions
from search.spec.study_spec import StudySpec
from search.study.ledger import Ledger
from tests import journals, specs
from trainer.config import TrainConfig

RATE = {"log": [1e-4, 1e-2]}


def said(folder: Path, spec: StudySpec, points: list[dict[str, Any]], value: Callable[[Any], float], n: int = 0) -> str:
    """All cautions of a study of these points at full length, in one text; the first n are stopped at a rung."""
    ledger = Ledger(folder)
    ledger.write("study", **journals.header("s"))
    for number, values in enumerate(points):
        point = {"warmup_frac": 0.2, **values}  # of six steps, at least one
        if number < n:
            journals.point(ledger, number, **point)
            journals.start(ledger, number)
            journals.report(ledger, number, 1000, value(point), rung=1000)
            journals.end(ledger, number, "pruned", rung=1000)
        else:
            journals.complete(ledger, number, value(point), **point)
    ledger.close()
    return "\n".join(cautions(ledger.study, spec))


def rates(low: float, high: float, n: int = 9) -> list[dict[str, Any]]:
    return [{"learning_rate": float(rate)} for rate in np.geomspace(low, high, n)]


# edges


def test_the_best_at_the_upper_edge_comes_with_a_wider_range(tmp_path: Path) -> None:
    text = said(tmp_path, specs.space(learning_rate=RATE), rates(1e-4, 9.5e-3), lambda p: 9 - p["learning_rate"])
    assert "learning_rate: the best trial has 0.0095, at the upper edge of log: [0.0001, 0.01]" in text
    assert "widen it to log: [0.0001, 0.1]" in text


def test_the_best_at_the_lower_edge_comes_with_a_wider_range(tmp_path: Path) -> None:
    text = said(tmp_path, specs.space(learning_rate=RATE), rates(1e-4, 1e-2), lambda p: 3 + p["learning_rate"])
    assert "at the lower edge" in text
    assert "widen it to log: [1e-05, 0.01]" in text


def test_a_best_in_the_middle_says_nothing(tmp_path: Path) -> None:
    points = rates(1e-4, 1e-2)
    text = said(
        tmp_path, specs.space(learning_rate=RATE), points, lambda p: 3 + abs(math.log(p["learning_rate"] / 1e-3))
    )
    assert text == ""


@pytest.mark.parametrize("scale", ["uniform", "log"])
@pytest.mark.parametrize(("place", "edge"), [(0.951, "upper"), (0.949, None), (0.051, None), (0.049, "lower")])
def test_an_edge_is_the_outer_twentieth_of_a_range_on_its_own_scale(
    tmp_path: Path, scale: str, place: float, edge: str | None
) -> None:
    ends = [1.0, 2.0] if scale == "uniform" else [1e-4, 1e-2]
    back = (lambda at: 1 + at) if scale == "uniform" else (lambda at: 1e-4 * 100**at)
    points = [{"learning_rate": back(at)} for at in (place, 0.3, 0.5, 0.7)]
    text = said(
        tmp_path, specs.space(learning_rate={scale: ends}), points, lambda p: 3.0 + (p["learning_rate"] != back(place))
    )
    assert (f"at the {edge} edge" in text) if edge else text == ""


def test_the_leader_is_who_leads_with_fresh_seeds(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header("s"))
    for number, (rate, value) in enumerate([(1e-2, 3.0), (1e-3, 3.1), (3e-4, 3.5)]):
        journals.complete(ledger, number, value, learning_rate=rate, warmup_frac=0.2)
    runs = [(0, 9.0), (1, 3.1), (0, 9.1), (1, 3.2), (0, 9.0), (1, 3.1)]  # the first was lucky
    for number, (of, value) in enumerate(runs, 3):
        config = TrainConfig(max_tokens=journals.LENGTH, warmup_frac=0.2).model_dump()
        about = {"of": of, "round": (number - 1) // 2}
        ledger.write("point", trial=number, point={}, config=config, name="again", **about)
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, value)
        journals.end(ledger, number, "completed")
    ledger.close()
    assert "edge" not in "\n".join(cautions(ledger.study, specs.space(learning_rate=RATE)))


def test_an_edge_that_nothing_inside_was_compared_with_says_nothing(tmp_path: Path) -> None:
    assert said(tmp_path, specs.space(learning_rate=RATE), rates(9.9e-3, 1e-2, 1), lambda p: 3.0) == ""


def test_a_wider_range_keeps_to_what_the_config_takes(tmp_path: Path) -> None:
    points = [{"dropout": value} for value in (0.0, 0.2, 0.4, 0.6)]
    low = specs.space(dropout={"uniform": [0.0, 0.6]})
    assert said(tmp_path / "a", low, points, lambda p: 3 + p["dropout"]) == ""  # there is no dropout below 0
    text = said(
        tmp_path / "b",
        specs.space(dropout={"uniform": [0.05, 0.6]}),
        [*points[1:], {"dropout": 0.05}],
        lambda p: 3 + p["dropout"],
    )
    assert "widen it to uniform: [0, 0.6]" in text
    high = specs.space(dropout={"uniform": [0.0, 0.8]})
    text = said(tmp_path / "c", high, [{"dropout": v} for v in (0.1, 0.4, 0.8)], lambda p: 3 - p["dropout"])
    assert "widen it to uniform: [0, 0.9]" in text  # 1 is no dropout any more


RANGES = st.one_of(
    *(
        st.tuples(
            st.just(field), st.just(kind), st.tuples(ends, ends).map(sorted).filter(lambda pair: pair[0] < pair[1])
        )
        for field, kind, ends in (
            ("weight_decay", "log", st.floats(1e-6, 1e6)),
            ("weight_decay", "uniform", st.floats(0, 1e6)),
            ("learning_rate", "log", st.floats(1e-300, 1e300)),
            ("dropout", "uniform", st.floats(0, 0.999)),
            ("beta1", "uniform", st.floats(0, 0.9999)),
            ("warmup_frac", "uniform", st.floats(0, 0.5)),
            ("batch_size", "log", st.integers(1, 4096)),
            ("n_layer", "uniform", st.integers(1, 64)),
        )
    )
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(searched=RANGES, upper=st.booleans())
def test_a_proposed_range_is_round_wider_and_taken(searched: tuple[str, str, list[float]], upper: bool) -> None:
    field, kind, ends = searched
    middle = ends[0] + (ends[1] - ends[0]) / 2 if kind == "uniform" else math.sqrt(ends[0]) * math.sqrt(ends[1])
    middle = int(middle) if isinstance(ends[0], int) else middle
    best = ends[upper]
    with tempfile.TemporaryDirectory() as folder:
        points = [{field: best}, {field: middle}]
        text = said(
            Path(folder) / "s", specs.space(**{field: {kind: ends}}), points, lambda p: 3.0 + (p[field] != best)
        )
        if "widen it" not in text:
            return
        written = re.findall(rf"{kind}: \[([^,]+), ([^]]+)\]", text)[-1]
        new = float(written[upper])
        assert new > best if upper else new < best
        assert len(re.sub(r"e.*|[.-]", "", written[upper]).strip("0")) <= 3
        specs.read(Path(folder), f"space: {{{field}: {{{kind}: [{written[0]}, {written[1]}]}}}}\n")


def test_a_proposal_is_as_round_as_a_person_would_write_it(tmp_path: Path) -> None:
    space = specs.space(weight_decay={"log": [1e-3, 0.3]})
    points = [{"weight_decay": value} for value in (1e-3, 1e-2, 0.3)]
    text = said(tmp_path, space, points, lambda p: 9 - p["weight_decay"])
    assert "widen it to log: [0.001, 5]" in text


def test_the_end_of_a_choice_of_numbers_is_an_edge_too(tmp_path: Path) -> None:
    points = [{"n_layer": n} for n in (2, 4, 8)]
    text = said(tmp_path / "a", specs.space(n_layer={"choice": [2, 4, 8]}), points, lambda p: 9 - p["n_layer"])
    assert "n_layer: the best trial has 8, the largest of its choice" in text
    assert "add 12" in text
    assert said(tmp_path / "b", specs.space(n_layer={"choice": [4, 8]}), points[1:], lambda p: 9 - p["n_layer"]) == ""
    mlp = [{"mlp": kind} for kind in ("gelu", "relu2", "swiglu")]
    assert said(tmp_path / "c", specs.space(mlp={"choice": ["gelu", "relu2", "swiglu"]}), mlp, lambda p: 3.0) == ""


def test_what_to_add_to_a_choice_is_as_far_as_its_last_step(tmp_path: Path) -> None:
    """A difference, or a ratio where the largest is at least eight times the smallest."""
    for folder, choice, best, more in (
        ("a", [2, 4, 8, 16], 16, 32),
        ("b", [16, 48, 64, 112], 112, 160),  # a ratio of 7
        ("c", [40, 60, 70], 40, 20),
        ("d", [40, 60, 70], 70, 80),
    ):
        spec, points = specs.space(batch_size={"choice": choice}), [{"batch_size": n} for n in choice]
        text = said(tmp_path / folder, spec, points, lambda p, best=best: 3.0 + abs(p["batch_size"] - best))
        assert text.splitlines()[0].endswith(f"add {more}"), text


def test_each_losss_own_best_learning_rate_is_looked_at(tmp_path: Path) -> None:
    points = [{**point, "loss": loss} for loss in ("cross_entropy", "mse") for point in rates(1e-4, 1e-2)]
    spec = specs.space(learning_rate=RATE, loss={"choice": ["cross_entropy", "mse"]})

    def value(point: dict[str, Any]) -> float:
        if point["loss"] == "mse":
            return 9 - 100 * point["learning_rate"]
        return 3 + abs(math.log(point["learning_rate"] / 1e-3))

    text = said(tmp_path, spec, points, value)
    assert "learning_rate: the best trial of mse has 0.01, at the upper edge" in text
    assert "learning_rate: the best trial has" not in text


def test_a_losss_learning_rate_under_a_name_of_its_own_is_looked_at_too(tmp_path: Path) -> None:
    field = {"field": "learning_rate", **RATE}
    spec = specs.space(
        loss={"choice": ["cross_entropy", "mse"]},
        lr_cross_entropy={**field, "when": {"loss": "cross_entropy"}},
        lr_mse={**field, "when": {"loss": "mse"}},
    )
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header("s"))
    tried = [(loss, point["learning_rate"]) for loss in ("cross_entropy", "mse") for point in rates(1e-4, 1e-2)]
    for number, (loss, rate) in enumerate(tried):
        config = TrainConfig(max_tokens=journals.LENGTH, loss=loss, learning_rate=rate, warmup_frac=0.2)
        point = {"loss": loss, f"lr_{loss}": rate}
        ledger.write("point", trial=number, point=point, config=config.model_dump(), name=loss)
        journals.start(ledger, number)
        value = 9 - 100 * rate if loss == "mse" else 3 + abs(math.log(rate / 1e-3))
        journals.report(ledger, number, journals.LENGTH, value)
        journals.end(ledger, number, "completed")
    ledger.close()
    text = "\n".join(cautions(ledger.study, spec))
    assert "lr_mse: the best trial of mse has 0.01, at the upper edge" in text
    assert "lr_cross_entropy" not in text


# losses


def test_losses_tuned_unequally_are_named(tmp_path: Path) -> None:
    spec = specs.space(learning_rate=RATE, loss={"choice": ["cross_entropy", "mse"]})
    points = [{**p, "loss": "mse" if i < 3 else "cross_entropy"} for i, p in enumerate(rates(2e-4, 5e-3, 12))]
    text = said(tmp_path / "a", spec, points, lambda p: 3 + abs(math.log(p["learning_rate"] / 1e-3)))
    assert "loss: trials at full length are unequal (cross_entropy 9, mse 3)" in text
    even = [{**p, "loss": "mse" if i % 2 else "cross_entropy"} for i, p in enumerate(rates(2e-4, 5e-3, 12))]
    assert "unequal" not in said(tmp_path / "b", spec, even, lambda p: 3 + p["learning_rate"])
    # stopped trials do not count: their best is not known
    assert "unequal" in said(tmp_path / "c", spec, even[1::2] + even[::2], lambda p: 3.0, n=4)


def test_learning_rates_searched_unequally_are_named(tmp_path: Path) -> None:
    spec = specs.space(learning_rate=RATE, loss={"choice": ["cross_entropy", "mse"]})
    points = [{**p, "loss": "mse"} for p in rates(9e-4, 2e-3, 6)]
    points += [{**p, "loss": "cross_entropy"} for p in rates(1e-4, 1e-2, 6)]
    text = said(tmp_path, spec, points, lambda p: 3 + abs(math.log(p["learning_rate"] / 1e-3)))
    assert "learning rates of cross_entropy were searched over a factor 100, those of mse over 2.22" in text


def _compared(folder: Path, points: list[dict[str, Any]], value: Callable[[Any], float]) -> Ledger:
    """A study of these points that compares their losses, all at full length."""
    ledger = Ledger(folder)
    ledger.write("study", **journals.header("s"))
    for number, point in enumerate(points):
        config = TrainConfig(max_tokens=journals.LENGTH, warmup_frac=0.2, **point)
        about = {"name": "", "group": point["loss"]}
        ledger.write("point", trial=number, point=point, config=config.model_dump(), **about)
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, value(point))
        journals.end(ledger, number, "completed")
    ledger.close()
    return ledger


def test_twice_as_many_is_not_unequal_yet(tmp_path: Path) -> None:
    spec = specs.space(learning_rate=RATE, loss={"choice": ["cross_entropy", "mse"]})
    for more, named in ((8, False), (9, True)):
        losses = ["mse"] * 4 + ["cross_entropy"] * more
        points = [{**p, "loss": loss} for p, loss in zip(rates(1e-4, 1e-2, 4 + more), losses, strict=True)]
        text = said(tmp_path / str(more), spec, points, lambda p: 3 + abs(math.log(p["learning_rate"] / 1e-3)))
        assert ("unequal" in text) is named
        ledger = _compared(tmp_path / f"compared {more}", points, lambda p: 3.0)
        text = "\n".join(cautions(ledger.study, spec.model_copy(update={"compare": "loss"})))
        assert ("unequal" in text) is named


@pytest.mark.parametrize(
    ("n", "narrow", "wide", "named"),
    [
        (4, 1.3, 2.5, True),
        (3, 1.3, 2.5, False),  # too few to have a range
        (4, 1.2, 1.9, False),  # less than a factor two is no search
        (4, 1.7, 2.8, False),  # less than twice as wide
    ],
)
def test_unequal_ranges_are_told_of_four_trials_on_a_factor_two_and_twice_the_other(
    tmp_path: Path, n: int, narrow: float, wide: float, named: bool
) -> None:
    spec = specs.space(learning_rate=RATE, loss={"choice": ["cross_entropy", "mse"]})
    points = [{**p, "loss": "mse"} for p in rates(1e-3, 1e-3 * narrow, n)]
    points += [{**p, "loss": "cross_entropy"} for p in rates(1e-3, 1e-3 * wide, n)]
    assert ("were searched over a factor" in said(tmp_path, spec, points, lambda p: 3.0)) is named


# rungs and schedules


@pytest.mark.parametrize("agrees", ["wholly", "somewhat", "not"])
def test_a_rung_that_did_not_predict_is_named(tmp_path: Path, agrees: str) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header("s"))
    finals = np.random.default_rng(0).permutation(12) / 10 + 3
    for number, final in enumerate(finals):
        ledger.write("point", trial=number, point={"seed": number}, config={}, name="", exempt=True)
        journals.start(ledger, number)
        early = {"wholly": final + 2, "somewhat": final + 2 + (number % 4) / 9, "not": 5 + number / 10}[agrees]
        journals.report(ledger, number, 1000, early, rung=1000)
        journals.report(ledger, number, journals.LENGTH, final)
        journals.end(ledger, number, "completed")
    text = "\n".join(cautions(ledger.study, specs.space(learning_rate=RATE)))
    assert ("the rung at 1k tokens has not been seen to predict" in text) is (agrees == "not")
    (first, *_) = agreement(ledger.study)
    assert first.low is not None
    assert {"wholly": first.low > 0.5, "somewhat": 0 < first.low < 0.5, "not": first.low <= 0}[agrees]


def test_a_warm_up_or_decay_without_a_step_is_named(tmp_path: Path) -> None:
    # journals' trials have 8,000 tokens and 12 x 128 in a step: 6 steps
    spec = specs.space(warmup_frac={"choice": [0.01, 0.2]}, schedule={"choice": ["cosine", "wsd"]})
    points = [{"warmup_frac": w, "schedule": "wsd", "decay_frac": d} for w in (0.01, 0.2) for d in (0.05, 0.2)]
    text = said(tmp_path / "a", spec, points, lambda p: 3.0)
    assert "warmup_frac: the warm-up of 2 of 4 trials (0, 1) comes to no whole step" in text
    assert "decay_frac: the decay of 2 of 4 trials (0, 2) comes to no whole step" in text
    fine = [{"warmup_frac": w} for w in (0.0, 0.2)]  # 0: none is wanted
    assert "step" not in said(tmp_path / "b", spec, fine, lambda p: 3.0)
    long = [{"warmup_frac": 0.51 + n / 100} for n in range(4)]
    assert "4 of 4 trials (0, 1, 2, ...) spend more than half" in said(tmp_path / "c", spec, long, lambda p: 3.0)
    assert "spend" not in said(tmp_path / "d", spec, [{"warmup_frac": 0.5}] * 4, lambda p: 3.0)


# parameters without effect


def test_a_parameter_without_effect_is_named_when_an_effect_would_have_been_seen(tmp_path: Path) -> None:
    spec = specs.space(learning_rate=RATE, bias={"choice": [True, False]})
    points = [{**p, "bias": bool(i % 2)} for i, p in enumerate(rates(1e-4, 1e-2, 40))]

    def value(point: dict[str, Any]) -> float:
        return 3 + abs(math.log(point["learning_rate"] / 1e-3))

    text = said(tmp_path / "a", spec, points, value)
    assert "bias: no difference seen among 40 trials (rank test of 2 groups" in text
    assert "learning_rate: no difference" not in text  # a valley, which has no slope
    assert "no difference" not in said(tmp_path / "b", spec, points[::3], value)  # 14 trials would not have shown it
    # what was decisive for being stopped has an effect, though the survivors are all alike
    more = [{**p, "bias": bool(i % 2)} for i, p in enumerate(rates(1e-4, 1e-2, 80))]
    stopped = [p for p in more if p["bias"]][::2]
    rest = [p for p in more if p not in stopped]
    assert "bias: no difference seen among 60" in said(tmp_path / "c", spec, rest, value)
    assert "bias: no difference" not in said(tmp_path / "d", spec, stopped + rest, value, n=len(stopped))


def _biased(n: int, better: float) -> tuple[list[dict[str, Any]], Callable[[Any], float], float]:
    """Points of n trials, every other one with a bias that is worth so many ranks; and the rank test's p."""
    points = [{**p, "bias": bool(i % 2)} for i, p in enumerate(rates(1e-4, 1e-2, n))]
    value = {p["learning_rate"]: 3 + 0.01 * (i - better * p["bias"]) for i, p in enumerate(points)}
    ranks = kruskal(*([value[p["learning_rate"]] for p in points if p["bias"] is which] for which in (True, False)))
    return points, lambda p: value[p["learning_rate"]], float(ranks.pvalue)


@pytest.mark.parametrize(("better", "named"), [(8.3, False), (5.3, True)])
def test_nothing_was_seen_where_p_is_above_a_fifth(tmp_path: Path, better: float, named: bool) -> None:
    points, value, p = _biased(40, better)
    assert (0.2 < p < 0.4) if named else (0.06 < p < 0.2)
    spec = specs.space(learning_rate=RATE, bias={"choice": [True, False]})
    assert ("bias: no difference" in said(tmp_path, spec, points, value)) is named


@pytest.mark.parametrize(("n", "groups"), [(2, 2), (3, 3)])
def test_a_value_that_was_tried_twice_is_left_out_of_the_rank_test(tmp_path: Path, n: int, groups: int) -> None:
    mlps = [*["gelu", "relu2"] * 20, *["swiglu"] * n]
    points = [{**p, "mlp": mlp} for p, mlp in zip(rates(1e-4, 1e-2, 40 + n), mlps, strict=True)]
    value = {p["learning_rate"]: 3.0 + (i if i < 40 else 15.5 + 4 * (i - 40)) for i, p in enumerate(points)}
    spec = specs.space(learning_rate=RATE, mlp={"choice": ["gelu", "relu2", "swiglu"]})
    text = said(tmp_path, spec, points, lambda p: value[p["learning_rate"]])
    assert f"mlp: no difference seen among {40 + n if n > 2 else 40} trials (rank test of {groups} groups" in text


def test_what_has_no_effect_is_not_at_an_edge(tmp_path: Path) -> None:
    points, value, _ = _biased(40, 0.0)
    points = [{**p, "dropout": [0.1, 0.3, 0.5][i % 3]} for i, p in enumerate(points)]
    points[0]["dropout"] = 0.5  # the best
    spec = specs.space(learning_rate=RATE, dropout={"uniform": [0.1, 0.5]})
    text = said(tmp_path, spec, points, value)
    assert "dropout: no difference" in text
    assert "dropout: the best trial" not in text
    assert "learning_rate: the best trial" in text


def test_what_a_study_compares_is_not_called_without_effect(tmp_path: Path) -> None:
    losses = [{**p, "loss": loss} for p, loss in zip(rates(1e-4, 1e-2, 40), ["mse", "cross_entropy"] * 20, strict=True)]
    spec = specs.space(learning_rate=RATE, loss={"choice": ["cross_entropy", "mse"]})
    ledger = _compared(tmp_path, losses, lambda p: 3 + abs(math.log(p["learning_rate"] / 1e-3)))
    assert "loss: no difference" in "\n".join(cautions(ledger.study, spec))
    assert cautions(ledger.study, spec.model_copy(update={"compare": "loss"})) == []


@pytest.mark.parametrize("status", ["diverged", "pruned", "paused", "early_stopped"])
def test_who_did_not_come_to_the_end_ranks_behind_and_counts(tmp_path: Path, status: str) -> None:
    """Every other one of those with a bias stops: among the others alone the bias makes no difference."""
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header("s"))
    points, value, _ = _biased(60, 0.0)
    for number, point in enumerate(points):
        if number % 4 == 1:
            journals.point(ledger, number, warmup_frac=0.2, **point)
            journals.start(ledger, number)
            journals.report(ledger, number, 1000, math.nan if status == "diverged" else value(point), rung=1000)
            journals.end(ledger, number, status)
        else:
            journals.complete(ledger, number, value(point), warmup_frac=0.2, **point)
    ledger.close()
    spec = specs.space(learning_rate=RATE, bias={"choice": [True, False]})
    assert "bias: no difference" not in "\n".join(cautions(ledger.study, spec))


def test_the_power_that_is_promised_is_there() -> None:
    from search.results.cautions import _CLEAR, _POWER

    rng, n = np.random.default_rng(1), 1
    while ncx2.sf(chi2.isf(0.05, 2), 2, 3 / math.pi * n * _CLEAR / (1 - _CLEAR)) < _POWER:
        n += 3
    group = np.repeat([-1.0, 0.0, 1.0], -(-n // 3))
    effect = group / group.std() * math.sqrt(_CLEAR / (1 - _CLEAR))
    p = [kruskal(*np.split(effect + rng.standard_normal(len(group)), 3)).pvalue for _ in range(400)]
    assert np.mean(np.array(p) < 0.05) == pytest.approx(_POWER, abs=0.07)


def test_before_any_trial_is_whole_nothing_is_said(tmp_path: Path) -> None:
    assert said(tmp_path, specs.space(learning_rate=RATE), rates(1e-4, 1e-2), lambda p: 3.0, n=9) == ""
