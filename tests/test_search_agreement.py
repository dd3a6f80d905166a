"""How well rungs predicted the final order, over the trials that no rung chose."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from search.results import table
from search.results.agreement import FEWEST, Agreement, agreement, interval, kendall, lines
from search.study.ledger import Ledger
from search.study.study import Study
from tests import journals


def trial(ledger: Ledger, number: int, at_rung: float, final: float | None, exempt: bool = True) -> None:
    """A trial with a value at the first rung; stopped there without a final one."""
    ledger.write("point", trial=number, point={"seed": number}, config={}, name=str(number), exempt=exempt)
    journals.start(ledger, number)
    journals.report(ledger, number, 1000, at_rung, rung=1000)
    if final is None:
        journals.end(ledger, number, "pruned", rung=1000)
    else:
        journals.report(ledger, number, journals.LENGTH, final)
        journals.end(ledger, number, "completed")


def begun(folder: Path, **changes: Any) -> Ledger:
    ledger = Ledger(folder)
    ledger.write("study", **journals.header("s", **changes))
    return ledger


def pairs(n: int, seed: int = 0, tau: float = 0.6) -> list[tuple[float, float]]:
    rho = math.sin(math.pi / 2 * tau)
    drawn = np.random.default_rng(seed).multivariate_normal([0, 0], [[1, rho], [rho, 1]], n)
    return [(float(math.exp(x)), float(math.exp(y))) for x, y in drawn]


@pytest.mark.parametrize("ties", [False, True])
def test_it_is_scipys_tau_b(ties: bool) -> None:
    rng = np.random.default_rng(3)
    for n in (2, 5, 30):
        x = rng.standard_normal(n)
        y = x + rng.standard_normal(n)
        if ties:
            x, y = np.round(x), np.round(y)
        expected = stats.kendalltau(x, y, variant="b").statistic
        found = kendall(x, y)
        assert (found is None and math.isnan(expected)) or found == pytest.approx(expected)
    assert kendall(np.ones(9), np.arange(9.0)) is None


@pytest.mark.parametrize("n", [FEWEST, 12, 40])
def test_the_interval_holds_the_truth_in_95_of_100_cases(n: int) -> None:
    for truth in (0.0, 0.5, 0.8, 0.95):
        rng = np.random.default_rng(5)
        rho = math.sin(math.pi / 2 * truth)
        held = 0
        for _ in range(400):
            x, y = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], n).T
            tau = kendall(x, y)
            assert tau is not None
            low, high = interval(tau, n)
            assert -1 <= low <= tau + 1e-4
            assert tau - 1e-4 <= high <= 1
            held += low <= truth <= high
        assert 0.925 <= held / 400 <= 0.985  # ± 2.5 standard errors of 400 cases, and the steps that tau has


def test_the_interval_narrows_and_fewest_is_where_a_useful_rung_shows() -> None:
    widths = [high - low for low, high in (interval(0.6, n) for n in (8, 16, 64, 4096))]
    assert widths == sorted(widths, reverse=True)
    assert widths[-1] < 0.05
    assert interval(0.6, FEWEST)[0] > 0 > interval(0.6, FEWEST - 1)[0]
    assert interval(1.0, 8)[1] == 1.0
    assert 0 < interval(1.0, 8)[0] < 0.7  # eight in the right order prove little
    assert interval(0.99995, 3000)[0] > 0.99  # between two of the values that are tried


def test_only_trials_that_no_rung_chose_are_counted(tmp_path: Path) -> None:
    ledger = begun(tmp_path / "s")
    values = pairs(12)
    for number, (at_rung, final) in enumerate(values):
        trial(ledger, number, at_rung, final)
    for number in range(12, 40):  # survivors, in the reverse order; and stopped ones, without a final value
        trial(ledger, number, float(number), 100.0 - number if number % 2 else None, exempt=False)
    trial(ledger, 40, 5.0, None)  # exempt, but broken
    ledger.write("status", trial=40, status="diverged")
    journals.point(ledger, 41)
    first, second = agreement(ledger.study)
    expected = stats.kendalltau(*zip(*values, strict=True)).statistic
    assert (first.rung, first.n, first.tau) == (1000, 12, pytest.approx(expected))
    assert (first.low, first.high) == interval(expected, 12)
    assert second == Agreement(4000, 0)  # nobody reported there
    (line,) = lines(ledger.study)
    assert f"1k {expected:.2f} ({first.low:.2f} to {first.high:.2f}, 12 trials)" in line
    assert "4k too few to say (0 of them, at least 8 needed)" in line
    assert line in table.render(ledger.study).splitlines()
    assert f"{line}  " in table.markdown(ledger.study).splitlines()
    shown = json.loads(table.as_json(ledger.study))
    assert shown["rungs"][0] == {"rung": 1000, "n": 12, "tau": first.tau, "low": first.low, "high": first.high}
    assert shown["rungs"][1]["tau"] is None
    assert len(shown["trials"]) == 42


def test_what_a_rung_compared_counts_before_what_was_measured_again(tmp_path: Path) -> None:
    """A trial that continues from an earlier checkpoint reports anew; it was judged by the first value."""
    ledger = begun(tmp_path / "s")
    values = pairs(10)
    for number, (at_rung, final) in enumerate(values):
        trial(ledger, number, 50.0 - number, final)
        decided = {"action": "continue", "value": at_rung, "cutoff": 9.0, "of": 1}
        ledger.write("decision", trial=number, rung=1000, **decided)
    assert agreement(ledger.study)[0].tau == pytest.approx(stats.kendalltau(*zip(*values, strict=True)).statistic)


def test_a_value_that_is_not_finite_is_none(tmp_path: Path) -> None:
    ledger = begun(tmp_path / "s")
    for number, (at_rung, final) in enumerate(pairs(9)):
        trial(ledger, number, math.nan if number == 0 else at_rung, math.inf if number == 1 else final)
    assert agreement(ledger.study)[0] == Agreement(1000, 7)


def test_with_few_or_no_exempt_trials_it_says_so(tmp_path: Path) -> None:
    ledger = begun(tmp_path / "s")
    about = "how well rungs predicted the final order: "
    trial(ledger, 0, 5.0, 4.0, exempt=False)
    assert lines(ledger.study) == [about + "cannot be said, no trial was exempt from being stopped"]
    for number in range(1, FEWEST):
        trial(ledger, number, 5.0 + number, 4.0 + number)
    assert lines(ledger.study) == [about + "too few to say (7 trials that could not be stopped, at least 8 needed)"]
    trial(ledger, 8, 9.0, 9.0)
    assert "1k 1.00" in lines(ledger.study)[0] or "1k 0.9" in lines(ledger.study)[0]


def test_without_rungs_nothing_is_said(tmp_path: Path) -> None:
    ledger = begun(tmp_path / "s", rungs=[])
    trial(ledger, 0, 5.0, 4.0)
    assert agreement(ledger.study) == []
    assert lines(ledger.study) == lines(Study()) == []
