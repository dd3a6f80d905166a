"""Trials that failed alike: they count in no budget and begin again, as those do whose retry is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.study.failures import begin_again, common_cause, failed_alike
from search.study.ledger import Ledger
from tests import journals

NO_WEIGHTS = "init_from: /empty: /empty has no config.json"
RATES = {"space": {"learning_rate": {"log": [1e-4, 1e-2]}}}
MEMORY = {"space": {"n_layer": {"choice": [2, 4]}}}  # a space in which memory differs from point to point


def failing(folder: Path, *causes: str, status: str = "failed", **spec: Any) -> Ledger:
    """A study whose first trials end with these causes, without a report."""
    ledger = Ledger(folder)
    header = journals.header()
    ledger.write("study", **{**header, "spec": {**header["spec"], **spec}})
    for number, cause in enumerate(causes):
        journals.point(ledger, number)
        journals.start(ledger, number)
        journals.end(ledger, number, status, cause=cause)
    return ledger


@pytest.mark.parametrize(
    ("causes", "status", "spec", "alike"),
    [
        ([NO_WEIGHTS] * 3, "failed", {}, True),
        ([NO_WEIGHTS], "failed", {}, True),
        (["ActorDiedError: pid 12 at 0x7f1c", "ActorDiedError: pid 345 at 0x9a"], "failed", {}, True),
        ([NO_WEIGHTS, NO_WEIGHTS, "RuntimeError: boom"], "failed", {}, False),
        ([""], "completed", {}, False),
        (["loss not finite at step 1"] * 3, "diverged", {}, False),  # what a rate did, and would do again
        (["CUDA out of memory"] * 3, "out_of_memory", RATES, True),
        (["CUDA out of memory"] * 3, "out_of_memory", MEMORY, False),  # smaller points may fit
        ([NO_WEIGHTS] * 3, "failed", MEMORY, True),
        ([], "failed", {}, False),
    ],
)
def test_a_cause_is_common_if_all_that_ended_have_it_and_no_point_may_be_to_blame(
    tmp_path: Path, causes: list[str], status: str, spec: dict[str, Any], alike: bool
) -> None:
    study = failing(tmp_path, *causes, status=status, **spec).study
    assert failed_alike(study) == (list(range(len(causes))) if alike else [])
    assert (causes[-1] in common_cause(study)) if alike else common_cause(study) == ""


@given(reporting=st.integers(0, 3), waiting=st.booleans())
def test_one_report_of_any_trial_shows_that_the_cause_is_not_common(
    tmp_path_factory: pytest.TempPathFactory, reporting: int, waiting: bool
) -> None:
    ledger = failing(tmp_path_factory.mktemp("study"), *[NO_WEIGHTS] * 3)
    journals.point(ledger, 3)
    if not waiting:
        journals.start(ledger, 3)
    assert failed_alike(ledger.study) == [0, 1, 2]
    journals.report(ledger, reporting, 1000, 5.0)
    assert failed_alike(ledger.study) == []


def test_trials_that_begin_again_are_unfinished_with_the_same_numbers_and_points_and_fail_again_as_before(
    tmp_path: Path,
) -> None:
    ledger = failing(tmp_path, *[NO_WEIGHTS] * 3)
    points = {number: trial.point for number, trial in ledger.study.trials.items()}
    for number in begin_again(ledger.study):
        ledger.write("status", trial=number, status="interrupted", cause="it begins again")
    assert ledger.study.unfinished() == [0, 1, 2]
    assert failed_alike(ledger.study) == []
    for number in (1, 0, 2):
        journals.start(ledger, number)
        journals.end(ledger, number, "failed", cause=NO_WEIGHTS)
    assert failed_alike(Ledger(tmp_path).study) == [0, 1, 2]
    assert {number: trial.point for number, trial in ledger.study.trials.items()} == points


def test_a_retry_takes_what_an_error_ended_and_nothing_else(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path)  # 4 failed
    journals.end(ledger, 6, "out_of_memory")
    assert begin_again(ledger.study) == []
    assert begin_again(ledger.study, retry_failed=True) == [4, 6]


def test_a_retried_trial_may_lose_as_many_workers_as_one_that_has_lost_none(tmp_path: Path) -> None:
    ledger = failing(tmp_path)
    journals.point(ledger, 0)
    journals.start(ledger, 0)
    for _ in range(3):
        ledger.write("status", trial=0, status="interrupted", worker_lost=True)
        journals.start(ledger, 0)
    journals.end(ledger, 0, "failed", cause="ActorDiedError")
    assert ledger.study.trials[0].workers_lost == 3
    ledger.write("status", trial=0, status="interrupted")
    assert ledger.study.trials[0].workers_lost == 0
