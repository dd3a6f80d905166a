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


def studied(*stints: tuple[int, float, float | None, str | None], workers: list[dict[str, float]]) -> Study:
    """Trials from 0, each of one stint: session, begin, end, node. Drivers have 0 to 100 and 200 to 300."""
    study = Study(sessions=[(0.0, 100.0), (200.0, 300.0)][: len(workers)], workers=workers)
    for number, (session, begin, end, node) in enumerate(stints):
        study.trials[number] = Trial(number, {}, {}, stints=[Stint(session, begin, end, "completed", node)])
    return study


def rows(study: Study) -> list[int]:
    """The row of each trial of the first driver, by its number."""
    return [bar.row for bar in sorted(sessions(study)[0].bars, key=lambda bar: bar.trial)]


def test_a_trial_is_laid_on_a_row_whose_last_trial_was_on_its_node() -> None:
    both = [(0, 0.0, 10.0, "a"), (0, 0.0, 10.0, "b")]
    two = [{"slots": 2}]
    assert rows(studied(*both, (0, 20.0, 30.0, "b"), workers=two)) == [0, 1, 1]
    assert rows(studied(*both, (0, 20.0, 30.0, "a"), workers=two)) == [0, 1, 0]
    assert rows(studied(*both, (0, 20.0, 30.0, "c"), workers=two)) == [0, 1, 0]  # else on the first that is free
    moved = [*both, (0, 20.0, 60.0, "a"), (0, 20.0, 30.0, "c"), (0, 70.0, 80.0, "c")]
    assert rows(studied(*moved, workers=two)) == [0, 1, 0, 1, 1]  # what counts is a row's last trial
    busy = [(0, 0.0, 10.0, "a"), (0, 0.0, 50.0, "b"), (0, 20.0, 30.0, "b")]
    assert rows(studied(*busy, workers=two)) == [0, 1, 0]  # rather another node's row than a row more


def test_a_row_is_free_from_the_moment_at_which_its_trial_ends() -> None:
    assert rows(studied((0, 0.0, 10.0, "a"), (0, 10.0, 20.0, "a"), workers=[{"slots": 1}])) == [0, 0]


def test_trials_are_laid_out_in_the_order_in_which_they_began() -> None:
    assert rows(studied((0, 50.0, 60.0, "a"), (0, 10.0, 55.0, "a"), workers=[{"slots": 2}])) == [1, 0]


def test_idle_time_is_before_the_first_trial_of_a_row_between_two_and_after_the_last() -> None:
    one = studied((0, 5.0, 20.0, "a"), (0, 27.0, 60.0, "a"), workers=[{"slots": 1}])
    assert sessions(one)[0].idle == {"before": 5.0, "between": 7.0, "after": 40.0}
    two = studied((0, 5.0, 20.0, "a"), workers=[{"slots": 2}])
    assert sessions(two)[0].idle == {"before": 105.0, "between": 0.0, "after": 80.0}


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


def test_cost_is_by_what_each_driver_gave_its_workers_and_ends_with_it() -> None:
    # the last ones: beyond the driver's last record, without an end, and begun after it
    stints = [(0, 10.0, 20.0, "a"), (1, 210.0, 230.0, "a"), (1, 290.0, 350.0, "a"), (1, 280.0, None, "a")]
    study = studied(*stints, (1, 310.0, None, "a"), workers=[{"cpus": 1.0, "gpus": 0.0}, {"cpus": 4.0, "gpus": 1.0}])
    study.trials[0].repeated = 300
    whole = cost(study, list(study.trials.values()))
    assert whole.worker_seconds == pytest.approx(10 + 20 + 10 + 20)
    assert whole.cpu_hours == pytest.approx((10 + 4 * 50) / 3600)
    assert whole.gpu_hours == pytest.approx(50 / 3600)
    assert whole.repeated == 300


def test_a_journal_of_an_earlier_release_has_no_hours_but_all_else() -> None:
    study = simulated.study(trials=8, dies=None)
    study.workers = [{}]
    assert cost(study, list(study.trials.values())).cpu_hours is None
    assert sessions(study)[0].rows == 2  # as many as were seen at once
