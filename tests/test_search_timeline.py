"""Who worked when: busy and idle time add up, whoever died meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.results.timeline import cost, sessions
from search.study.study import Stint, Study, Trial
from tests import simulated


@pytest.mark.parametrize("dies", [None, 100.0, 300.0])
def test_busy_and_idle_are_workers_times_wall_time(dies: float | None) -> None:
    for slots in (1, 2, 5):
        for session in sessions(simulated.study(trials=20, slots=slots, dies=dies)):
            assert session.rows == slots
            assert session.busy + sum(session.idle.values()) == pytest.approx(session.rows * session.wall)
            assert min(session.idle.values()) >= 0


def overlapping(study: Study) -> list[tuple[int, int]]:
    return [
        (one.trial, other.trial)
        for session in sessions(study)
        for one in session.bars
        for other in session.bars
        if one is not other and one.row == other.row and one.begin < other.end and other.begin < one.end
    ]


def test_no_worker_has_two_trials_at_once() -> None:
    assert not overlapping(simulated.study(trials=30, slots=3))


times = st.floats(0, 100)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(times, st.none() | times, st.sampled_from(["a", "b", None])), max_size=30), st.integers(0, 4))
def test_any_stints_fit_on_the_rows_without_overlap_and_within_the_driver(
    stints: list[tuple[float, float | None, str | None]], slots: int
) -> None:
    study = Study(sessions=[(10.0, 90.0)], workers=[{"slots": slots}])
    for number, (begin, end, node) in enumerate(stints):
        study.trials[number] = Trial(number, {}, {}, stints=[Stint(0, begin, end, "completed", node)])
    (session,) = sessions(study)
    assert sorted(bar.trial for bar in session.bars) == list(study.trials)
    assert not overlapping(study)
    assert session.rows >= slots
    assert all(0 <= bar.begin <= bar.end <= 80 for bar in session.bars)
    assert session.busy + sum(session.idle.values()) == pytest.approx(session.rows * session.wall)


def test_a_driver_that_died_counts_to_its_last_record_alone() -> None:
    study = simulated.study(trials=20, dies=60.0)
    first, second = sessions(study)
    assert first.wall < 65  # the next one came 1,000 seconds later
    lost = [bar for bar in first.bars if bar.status == "interrupted"]
    assert [bar.end for bar in lost] == [first.wall, first.wall]
    assert {bar.trial for bar in lost} <= {bar.trial for bar in second.bars}


def test_cost_is_of_the_time_that_trials_held_workers() -> None:
    study = simulated.study(trials=20)
    whole = cost(study, list(study.trials.values()))
    assert whole.worker_seconds == pytest.approx(sum(session.busy for session in sessions(study)))
    assert whole.cpu_hours == pytest.approx(whole.worker_seconds / 3600)
    assert whole.gpu_hours == pytest.approx(whole.worker_seconds / 7200)  # half a GPU each
    parts = [cost(study, [trial]) for trial in study.trials.values()]
    assert sum(part.tokens for part in parts) == whole.tokens
    assert sum(part.worker_seconds for part in parts) == pytest.approx(whole.worker_seconds)


def test_a_journal_of_an_earlier_release_has_no_hours_but_all_else() -> None:
    study = simulated.study(trials=8, dies=None)
    study.workers = [{}]
    assert cost(study, list(study.trials.values())).cpu_hours is None
    assert sessions(study)[0].rows == 2  # as many as were seen at once
