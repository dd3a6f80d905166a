"""What the rungs did: every trial leaves in one place, and what enters a rung continued from the one before."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from search.results.survival import survival
from search.study.study import Study
from tests import journals, simulated


def check(study: Study) -> None:
    rows = survival(study)
    left = [number for row in rows for numbers in row.left.values() for number in numbers]
    assert sorted(left) == [trial.number for trial in study.searched]
    assert rows[0].entered == len(study.searched)
    for one, other in itertools.pairwise(rows):
        assert one.continued == other.entered
        assert one.reached >= one.continued >= 0
    assert rows[-1].rung is None
    assert rows[-1].continued == 0


@pytest.mark.parametrize("dies", [None, 90.0])
def test_every_trial_leaves_in_exactly_one_place(dies: float | None) -> None:
    check(simulated.study(trials=60, dies=dies))


def test_trials_of_every_kind_have_their_place(tmp_path: Path) -> None:
    study = journals.write_study(tmp_path / "quick").study
    check(study)
    first, second, end = survival(study)
    assert first.left["stopped"] == [2]
    assert first.left["broke"] == [4]
    assert first.left["going"] == [6]
    assert second.left["broke"] == [3]  # nan at the first rung: it came there
    assert (second.left["going"], end.left["going"]) == ([], [5])
    assert end.left["done"] == [0, 1]
    assert first.cutoff == {2: 2.0}
    assert first.value[2] == 2.5


def test_paused_ones_are_told_from_stopped_ones_until_they_are_promoted(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    journals.start(ledger, 6)
    journals.report(ledger, 6, 1000, 3.0, rung=1000)
    ledger.write("decision", trial=6, rung=1000, action="pause", value=3.0, cutoff=2.0, of=3)
    journals.end(ledger, 6, "paused", rung=1000)
    check(ledger.study)
    assert survival(ledger.study)[0].left["paused"] == [6]
    ledger.write("decision", trial=6, rung=1000, action="promote", value=3.0, cutoff=3.0, of=4)
    check(ledger.study)
    assert survival(ledger.study)[1].left["going"] == [6]


def test_a_trial_that_ended_early_by_itself_was_not_stopped(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    journals.start(ledger, 6)
    journals.report(ledger, 6, 1000, 3.0, rung=1000)
    record = {"step": 20, "tokens": 2000, "rung": None, "final": True, "metrics": journals.metrics(2.9)}
    ledger.write("report", trial=6, checkpoint=None, **record)
    journals.end(ledger, 6, "early_stopped")
    check(ledger.study)
    assert survival(ledger.study)[1].left["early"] == [6]


def test_without_rungs_there_is_the_end_alone(tmp_path: Path) -> None:
    study = journals.write_study(tmp_path / "quick", rungs=[]).study
    (end,) = survival(study)
    assert end.entered == 7
    assert end.left["done"] == [0, 1]
