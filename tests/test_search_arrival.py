"""Whether the order in which trials come to their rungs decides who continues: with `mode: synchronous` it does not."""

from __future__ import annotations

import math
import random
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search.spec.study_spec import StudySpec
from search.strategy.advice import advice
from search.study.scores import best
from search.study.study import Study
from tests import journals, specs
from tests.arrivals import BASE, Search, bowl, outcome
from tests.refusals import key_refusal, place

SPACE: dict[str, Any] = {
    "learning_rate": {"log": [1e-4, 1e-1]},
    "loss": {"choice": ["cross_entropy", "brier"]},
}
PLAIN = {"trials": 12, "factor": 2, "cohort": 4, "brackets": 1, "compare": False}


def spec(trials: int = 12, compare: bool = False, sampler: str = "random", **asha: Any) -> StudySpec:
    scheduler = {"asha": {"first_rung": 1000, "factor": 2, "mode": "synchronous", **asha}}
    head = {"study": "s", "base": "b", "space": SPACE, "sampler": sampler, "budget": {"trials": trials}, "seed": 3}
    return StudySpec.model_validate({**head, "scheduler": scheduler, "compare": "loss" if compare else None})


def breaks(config: dict[str, Any], tokens: int) -> float:
    """A high rate diverges, now at its first rung and now at a later one."""
    rate = config["learning_rate"]
    return math.nan if rate > 0.05 or (rate > 0.02 and tokens > 1000) else bowl(config, tokens)


@contextmanager
def in_memory() -> Iterator[Path]:
    """A folder where a flush costs nothing: a simulated study flushes some hundred records."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)


def mislead(config: dict[str, Any], tokens: int) -> float:
    """A rung says little about the end."""
    return bowl(config, tokens) * math.exp(random.Random(f"{config['learning_rate']} {tokens}").gauss(0, 1))


def run(
    given_spec: StudySpec,
    workers: int = 1,
    order: int | None = None,
    value: Callable[[dict[str, Any], int], float] = breaks,
    **more: Any,
) -> Study:
    """order: seed of the speeds of trials, stretch by stretch; None: all are equally fast."""
    rng = random.Random(order)
    pace = (lambda number, tokens: tokens / 1000) if order is None else lambda number, tokens: rng.uniform(0.1, 9)
    with in_memory() as folder:
        return Search(folder, given_spec, workers, pace, value, **more).run()


@cache
def alone(fails: tuple[int, ...], **options: Any) -> dict[int, Any]:
    return outcome(run(spec(**options), fails=fails))


@settings(max_examples=15, deadline=None)
@given(
    workers=st.integers(1, 7),
    order=st.integers(0, 10**6),
    kills=st.sets(st.integers(1, 40), max_size=3),
    fails=st.sampled_from([(), (0, 5), (2, 3, 4, 7)]),
    options=st.sampled_from(
        [PLAIN, {**PLAIN, "factor": 3, "cohort": 5}, {**PLAIN, "brackets": 2, "cohort": 3}, {**PLAIN, "compare": True}]
    ),
)
def test_the_same_trials_go_on_whatever_the_order_of_arrival_the_workers_and_the_crashes(
    workers: int, order: int, kills: set[int], fails: tuple[int, ...], options: dict[str, Any]
) -> None:
    there = outcome(run(spec(**options), workers, order, kills=kills, fails=fails))
    assert there == alone(fails, **options)
    assert {status for _, status, *_ in there.values()} <= {"completed", "paused", "diverged", "failed"}


@pytest.mark.parametrize(("mode", "same"), [("stop", False), ("promote", False), ("synchronous", True)])
def test_two_runs_of_one_spec_may_choose_other_winners_only_where_a_rung_does_not_wait(mode: str, same: bool) -> None:
    plain = spec(trials=16, mode=mode, factor=4, exempt=0).model_dump()
    raced = StudySpec.model_validate({**plain, "finalists": {"top": 2, "seeds": 2}})
    studies = [run(raced, 4, order, mislead) for order in range(6)]
    assert (len({str(outcome(study)) for study in studies}) == 1) is same
    leaders = {leader.number for study in studies if (leader := best(study)) is not None}
    assert len(leaders) == 1 if same else len(leaders) > 1


def test_a_cohort_brings_its_best_share_on_and_at_least_one_trial_to_its_end() -> None:
    study = run(spec(trials=14, cohort=6, factor=4, exempt=0), 3, 1, fails=(1,))
    cohorts = [study.searched[at : at + 6] for at in (0, 6, 12)]
    assert [{trial.cohort for trial in cohort} for cohort in cohorts] == [{0}, {1}, {2}]
    for cohort in cohorts:  # 5 or 6 come, or 2: one of them continues, and alone at the next rung again
        finals = {t.number: bowl(t.config, 1000) for t in cohort if t.status in ("completed", "paused")}
        assert [t.number for t in cohort if t.status == "completed"] == [min(finals, key=lambda n: finals[n])]


def test_where_all_of_a_cohort_break_the_others_are_not_held_up() -> None:
    study = run(spec(trials=8), 2, 1, fails=(0, 1, 2, 3))
    assert [trial.status for trial in study.searched[:4]] == ["failed"] * 4
    assert sum(trial.status == "completed" for trial in study.searched[4:]) >= 1


@settings(max_examples=10, deadline=None)
@given(tokens=st.integers(1_000, 60_000), workers=st.integers(1, 5), order=st.integers(0, 10**6))
def test_a_budget_of_tokens_ends_a_search_whose_rungs_wait(tokens: int, workers: int, order: int) -> None:
    given_spec = StudySpec.model_validate({**spec().model_dump(), "budget": {"tokens": tokens}})
    study = run(given_spec, workers, order, fails=(1, 2))
    assert study.unfinished() == []
    assert study.tokens >= tokens


def test_a_raised_budget_leaves_what_was_decided_and_begins_another_cohort() -> None:
    with in_memory() as folder:
        first = outcome(Search(folder, spec(trials=6), 2).run())
        study = Search(folder, spec(trials=10), 3).run()
    assert [trial.cohort for trial in study.searched] == [0, 0, 0, 0, 1, 1, 2, 2, 2, 2]
    assert {number: outcome(study)[number] for number in first} == first


def test_a_cohort_that_nobody_has_left_takes_the_trials_of_a_raised_budget() -> None:
    """One trial, which fails: nothing was decided."""
    with in_memory() as folder:
        Search(folder, spec(trials=1), 1, fails=(0,)).run()
        study = Search(folder, spec(trials=5), 1, fails=(0,)).run()
    assert [trial.cohort for trial in study.searched] == [0, 0, 0, 0, 1]


def test_workers_are_hardly_idler_than_where_no_rung_waits() -> None:
    """Eight workers, 64 trials whose speeds differ by a factor of 2.7 from the 16th to the 84th percentile."""

    def idle(mode: str) -> float:
        shares = []
        for seed in range(5):
            rng = random.Random(seed)
            speed = [rng.lognormvariate(0, 0.5) for _ in range(64)]
            with in_memory() as folder:
                search = Search(
                    folder,
                    spec(trials=64, mode=mode, factor=4, first_rung=500),
                    8,
                    lambda number, tokens, speed=speed: tokens / 1000 * speed[number],  # type: ignore[misc]
                )
                search.run()
            shares.append(1 - search.busy / search.seconds / 8)
        return statistics.mean(shares)

    assert idle("synchronous") < idle("promote") + 0.1  # 32 and 28 % over 20 seeds


def test_a_cohort_without_the_mode_is_refused_and_what_still_depends_on_order_is_said(tmp_path: Path) -> None:
    text = "space: {n_layer: {choice: [1, 2]}}\nscheduler: {asha: {first_rung: 500k, cohort: 8}}\n"
    error = key_refusal(lambda: specs.read(tmp_path, text))
    assert (place(error), error.kind) == ("5: scheduler.asha", "unused")
    order = "its decisions depend on no order of arrival, but sampler: tpe"
    assert sum(order in line for line in advice(spec(sampler="tpe"), BASE, specs.facts(journals.LENGTH))) == 1
    assert not any("order" in line for line in advice(spec(), BASE, specs.facts(journals.LENGTH)))
    alone_spec = StudySpec.model_validate({**spec(sampler="tpe").model_dump(), "resources": {"at_once": 1}})
    assert not any("order" in line for line in advice(alone_spec, BASE, specs.facts(journals.LENGTH)))
    assert any(
        line.startswith("scheduler.asha.cohort: 9")
        for line in advice(spec(trials=8, cohort=9), BASE, specs.facts(8000))
    )
