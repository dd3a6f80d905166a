"""The median rule by its definition, in a study that is cut short, and what a spec may say of it."""

from __future__ import annotations

import random
from pathlib import Path
from statistics import median as textbook
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.run.scheduler import settle
from search.spec.study_spec import StudySpec
from search.stopping.median import Median, MedianSettings, median
from search.strategy.advice import advice
from search.strategy.stopping import rebuild
from search.study.ledger import Ledger
from tests import journals, specs
from tests.refusals import key_refusal, place

SPACE = "space: {learning_rate: {log: [1e-4, 1e-2]}}\n"
NUMBERS = st.floats(-1e6, 1e6)


@settings(deadline=None)
@given(values=st.lists(NUMBERS, min_size=1, max_size=40), least=st.integers(1, 6))
def test_whoever_is_worse_than_the_median_of_the_others_is_stopped(values: list[float], least: int) -> None:
    rule = Median(least)
    for trial, value in enumerate(values):
        decision, others = rule.report(trial, 1000, value), values[:trial]
        assert (decision.value, decision.of) == (value, trial + 1)
        if trial < least:
            assert (decision.action, decision.cutoff) == ("continue", None)
        else:
            assert decision.cutoff == pytest.approx(textbook(others), rel=1e-12, abs=1e-9)
            assert (decision.action == "stop") == (value > median(sorted(others)))


def test_the_median_of_equal_or_huge_values_is_one_of_them() -> None:
    assert median([5e-324, 5e-324]) == 5e-324
    assert median([1.7e308, 1.7e308]) == 1.7e308
    assert {Median(1).report(0, 1, 3.0).action for _ in range(9)} == {"continue"}


def test_at_a_later_rung_a_trials_best_value_so_far_counts() -> None:
    rule = Median(2)
    for trial, value in enumerate([4.0, 6.0, 3.0]):
        rule.report(trial, 1000, value)
    assert rule.report(0, 2000, 3.5).value == 3.5
    assert rule.report(1, 2000, 9.0).value == 6.0  # the others do not see that it became worse
    assert rule.report(2, 2000, 8.0).value == 3.0  # 8 is worse than the median of 3.5 and 6, 3 is not
    assert rule.report(3, 2000, 4.0) == rule.report(3, 2000, 99.0)
    assert rule.report(3, 2000, 4.0).cutoff == 3.5


def test_values_of_later_rungs_do_not_count_at_an_earlier_one() -> None:
    rule = Median(1)
    rule.report(0, 1000, 5.0)
    rule.report(1, 2000, 1.0)  # a large step passed the first rung
    assert rule.report(1, 1000, 6.0).value == 6.0


def test_half_of_those_after_the_first_go_on_in_random_order() -> None:
    rng, n, least, rounds = random.Random(0), 32, 4, 400
    going = 0
    for _ in range(rounds):
        rule = Median(least)
        going += sum(rule.report(trial, 1, rng.random()).action == "continue" for trial in range(n))
    assert going / rounds == pytest.approx(least + (n - least) / 2, abs=0.5)  # sd of the mean about 0.15


def test_fewer_than_one_other_trial_has_no_median() -> None:
    with pytest.raises(ValueError, match="min_trials is 0"):
        Median(0)


# settings


def test_rungs_are_as_far_apart_as_every_says() -> None:
    assert MedianSettings(first_rung=1000, every=1500).rungs(5500) == [1000, 2500, 4000]
    assert MedianSettings(first_rung=1000).rungs(4000) == [1000, 2000, 3000]


@pytest.mark.parametrize(
    ("settings", "where", "kind"),
    [
        ("{first_rung: 1k, every: 1}", "scheduler.median.every", "conflict"),
        ("{first_rung: 1k}", "scheduler.median.first_rung", "conflict"),
        ("{first_rung: 1M, min_trials: 0}", "scheduler.median.min_trials", "greater_than_equal"),
        ("{every: 1M}", "scheduler.median", "missing"),
        ("4", "scheduler.median", "value_error"),
    ],
)
def test_what_cannot_be_is_refused_with_its_place(tmp_path: Path, settings: str, where: str, kind: str) -> None:
    error = key_refusal(lambda: specs.read(tmp_path, f"{SPACE}scheduler: {{median: {settings}}}\n"))
    assert (place(error), error.kind) == (f"5: {where}", kind)


@pytest.mark.parametrize(
    ("settings", "rungs"), [("{first_rung: 1k, every: 1}", "1,999,000"), ("{first_rung: 1k}", "1,999")]
)
def test_the_rungs_that_are_too_many_are_counted(tmp_path: Path, settings: str, rungs: str) -> None:
    error = key_refusal(lambda: specs.read(tmp_path, f"{SPACE}scheduler: {{median: {settings}}}\n"))
    assert error.problem.partition("tokens ")[2] == (
        f"make {rungs} rungs, at most 1,000 are compared; use at least 2,000"
    )


def test_the_largest_number_of_rungs_is_taken(tmp_path: Path) -> None:
    spec, _, _ = specs.read(tmp_path, f"{SPACE}scheduler: {{median: {{first_rung: 2k}}}}\n")
    assert len(spec.rungs(2_000_000)) == 999


@pytest.mark.parametrize(
    ("scheduler", "where", "kind", "problem"),
    [
        ("{medain: {first_rung: 1M}}", "scheduler.medain", "extra_forbidden", "unknown key; did you mean median?"),
        (
            "median",
            "scheduler",
            "form",
            "expected none or {median: {first_rung: 1M}} (rules: asha, median), got 'median'",
        ),
        (
            "{asha: {first_rung: 1M}, median: {first_rung: 1M}}",
            "scheduler",
            "value_error",
            "give exactly one of asha, median; got asha and median; for example scheduler: {asha: {first_rung: 1M}}",
        ),
        (
            "{}",
            "scheduler",
            "value_error",
            "give exactly one of asha, median; got none; for example scheduler: {asha: {first_rung: 1M}}",
        ),
    ],
)
def test_another_scheduler_is_answered_with_the_names_that_there_are(
    tmp_path: Path, scheduler: str, where: str, kind: str, problem: str
) -> None:
    error = key_refusal(lambda: specs.read(tmp_path, f"{SPACE}scheduler: {scheduler}\n"))
    assert (place(error), error.kind, error.problem) == (f"5: {where}", kind, problem)


def test_too_few_trials_for_a_median_is_said(tmp_path: Path) -> None:
    text = f"{SPACE}scheduler: {{median: {{first_rung: 1M, min_trials: {{}}}}}}\n"
    said = {n: advice(*specs.read(tmp_path, text.replace("{}", str(n)))[:2], specs.facts(2_000_000)) for n in (3, 4)}
    assert said[3] == []  # the budget is 4 trials
    (line,) = said[4]
    assert line.startswith("scheduler.median.min_trials: 4, but each is compared with at most 3 others")


# in a study


def study_spec(**more: Any) -> StudySpec:
    settings = {"first_rung": 1000, "every": 3000, "min_trials": 2}
    plain = specs.space(learning_rate={"log": [1e-4, 1]}).model_dump()
    return StudySpec.model_validate({**plain, "scheduler": {"median": settings}, **more})


def test_what_a_killed_driver_left_undecided_is_decided_with_what_stands_in_the_journal(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header(spec=study_spec().model_dump(mode="json"), rungs=[1000, 4000, 7000]))
    for number, value in enumerate([3.0, 4.0, 5.0, 3.4]):
        journals.point(ledger, number)
        journals.start(ledger, number)
        journals.report(ledger, number, 1000, value, rung=1000)
        if number < 2:
            decision = {"action": "continue", "value": value, "cutoff": None, "of": number + 1}
            ledger.write("decision", trial=number, rung=1000, **decision)
    settle(ledger, study_spec(), rebuild(study_spec(), ledger.study))
    trials = ledger.study.trials
    assert [trials[number].status for number in range(4)] == ["running", "running", "pruned", "running"]
    assert (trials[2].rung, trials[2].decisions[0]["cutoff"]) == (1000, 3.5)
    assert (trials[3].decisions[0]["action"], trials[3].decisions[0]["cutoff"]) == ("continue", 4.0)
    before = ledger.journal.path.read_bytes()
    ledger.close()
    again = Ledger(tmp_path)  # a cutoff of null is read back
    settle(again, study_spec(), rebuild(study_spec(), again.study))
    assert again.journal.path.read_bytes() == before
