"""No configuration runs twice, whichever sampler proposes, and a space without end is not changed by it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ray.tune.search import Searcher

from search.results.notes import exhausted_lines
from search.run.searcher import LedgerSearcher
from search.spec.space import configuration, configure
from search.spec.study_spec import StudySpec
from search.strategy.advice import advice
from search.strategy.distinct import Distinct
from search.study import header
from search.study.journal import read_records
from search.study.ledger import Ledger
from search.study.study import Study
from tests import journals, specs
from tests.specs import sampler_of
from tests.test_search_sampler import Told, asked
from trainer.config import TrainConfig

BASE = TrainConfig(max_tokens=8000)
# 2 + 2 x 2 + 2: the parameter of squentropy exists only there
SPACE: dict[str, Any] = {
    "n_layer": {"choice": [1, 2]},
    "loss": {"choice": ["cross_entropy", "squentropy", "mse"]},
    "squentropy_lambda": {"choice": [0.1, 1.0], "when": {"loss": "squentropy"}},
}
N = 8
RATE = {"log": [1e-4, 1e-1]}
ENDS = ("completed", "early_stopped", "pruned", "paused", "diverged", "failed", "out_of_memory", "interrupted", "")
each_sampler = pytest.mark.parametrize("kind", ["random", "tpe", "gp", "grid"])
learning = pytest.mark.parametrize("kind", ["tpe", "gp"])


def spec(kind: str = "random", space: dict[str, Any] | None = None, **more: Any) -> StudySpec:
    head = {"study": "s", "base": "b", "budget": {"trials": 99}, "sampler": kind, "seed": 7}
    return StudySpec.model_validate({**head, "space": space or SPACE, **more})


def keys(given: StudySpec, points: list[dict[str, Any] | None]) -> list[str | None]:
    return [Distinct(given, BASE).key(point) for point in points if point is not None]


def end(told: Told, number: int, status: str) -> None:
    """Whatever becomes of a trial; "": it runs on."""
    if status in ("completed", "early_stopped"):
        told.report(number, 4.0 + number % 3)
    elif status in ("pruned", "paused"):
        told.report(number, 9.0 - number % 3, rung=1000)
    if status:
        told.end(number, status)


@each_sampler
def test_every_configuration_runs_once_and_then_the_search_ends(kind: str) -> None:
    points = asked(spec(kind), Told(), N + 2)
    assert points[N:] == [None, None]
    assert len(set(keys(spec(kind), points))) == N


@each_sampler
def test_a_configuration_is_known_whatever_became_of_its_trial(kind: str) -> None:
    told, points = Told(), []
    for number, status in zip(range(N), ENDS, strict=False):
        points += asked(spec(kind), told, 1)
        end(told, number, status)
    assert len(set(keys(spec(kind), points))) == N
    assert asked(spec(kind), told, 1) == [None]


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(["random", "tpe", "grid"]), ends=st.lists(st.sampled_from(ENDS), min_size=N, max_size=N))
def test_replayed_from_the_journal_the_same_points_come_and_it_ends_at_the_same_place(
    kind: str, ends: list[str]
) -> None:
    told = Told()
    for number, status in enumerate(ends):
        assert asked(spec(kind), told, 1) != [None]
        end(told, number, status)
    again = Study()
    for record in told.records:
        if record["record"] == "point":
            assert sampler_of(spec(kind)).ask(record["trial"], again) == record["point"]
        again.apply(record)
    assert sampler_of(spec(kind)).ask(N, again) is None


@each_sampler
def test_points_that_differ_and_train_the_same_model_are_one(kind: str) -> None:
    """The base has 4 heads and no dropout, and AdamW's momentum has no effect."""
    width = [{"n_embd": 64}, {"n_embd": 64, "n_head": 4}, {"n_embd": 128}, {"n_embd": 128, "dropout": 0.0}]
    given = spec(kind, {"width": {"choice": width}, "n_layer": {"choice": [1, 2]}})
    points = asked(given, Told(), 5)
    assert points.pop() is None
    configs = [configure(BASE, given.space, point) for point in points if point is not None]
    assert len({(config.n_embd, config.n_layer) for config in configs}) == 4
    idle = BASE.model_dump(mode="json")
    assert configuration(idle) == configuration({**idle, "momentum": 0.5}) != configuration({**idle, "beta1": 0.5})


@pytest.mark.parametrize("kind", ["random", "tpe", "gp"])
def test_a_start_point_is_completed_to_one_that_is_new_and_gives_way_once_there_is_none(kind: str) -> None:
    start = [{"n_layer": 1, "loss": "mse"}, {"n_layer": 1}, {"loss": "mse"}, {"loss": "mse", "n_layer": 2}]
    points = asked(spec(kind, start=start), Told(), N + 1)
    assert points[0] == start[0]
    assert points[1] is not None
    assert (points[1]["n_layer"], points[1] != start[0]) == (1, True)
    assert points[2] == start[3]  # all that is left of mse, so that the fourth start point has run
    assert points[-1] is None
    assert len(set(keys(spec(kind), points))) == N


def test_a_grid_leaves_out_what_its_start_points_are() -> None:
    start = [{"width": {"n_embd": 64}}, {"width": {"n_embd": 96, "n_head": 4}}]  # the second is not in the grid
    width = {"choice": [{"n_embd": 64, "n_head": 4}, {"n_embd": 128, "n_head": 4}]}
    points = asked(spec("grid", {"width": width}, start=start), Told(), 4)
    assert [point and point["width"]["n_embd"] for point in points] == [64, 96, 128, None]
    assert Distinct(spec("grid", {"width": width}, start=start), BASE).count() == 3


def test_a_start_point_that_an_earlier_study_knows_is_still_to_come() -> None:
    given, told = spec("tpe", {"n_layer": {"choice": [1, 2]}}, start=[{"n_layer": 2}, {"n_layer": 1}]), Told()
    earlier(told, *(({"n_layer": n}, "completed", TrainConfig(max_tokens=8000, n_layer=n)) for n in (1, 2)))
    for n in (2, 1):
        assert not Distinct(given, BASE).exhausted(told.study)
        assert asked(given, told, 1) == [{"n_layer": n}]
    assert Distinct(given, BASE).exhausted(told.study)


def earlier(told: Told, *trials: tuple[dict[str, Any], str, TrainConfig | None]) -> None:
    for number, (point, status, config) in enumerate(trials):
        about: dict[str, Any] = {"study": "before", "trial": number, "status": status, "tokens": 8000, "point": point}
        about |= {"scores": {1000: 9.0}, "objective": 4.0 + number if status == "completed" else None}
        about |= {} if config is None else {"config": config.model_dump(mode="json")}
        told.write({"record": "prior", "trials": [about]})


@pytest.mark.parametrize(("dtype", "left"), [({}, 1), ({"dtype": {"choice": ["float32", "bfloat16"]}}, 4)])
def test_the_precision_that_a_study_settled_is_a_difference_only_where_it_is_searched(
    dtype: dict[str, Any], left: int
) -> None:
    layers = [TrainConfig(max_tokens=8000, n_layer=n, dtype="bfloat16") for n in (1, 2)]
    told = Told()
    earlier(told, *(({"n_layer": one.n_layer}, "completed", one) for one in layers))
    given = spec("random", {"n_layer": {"choice": [1, 2, 3]}, **dtype}, warm_start="before")
    for base in (BASE, BASE.model_copy(update={"dtype": "float32"})):  # before and after it is settled here
        distinct = Distinct(given, base)
        assert distinct.count(known=distinct.taken_before(told.study)) == left


@learning
def test_what_an_earlier_study_trained_to_the_end_is_known_where_the_whole_config_is_equal(kind: str) -> None:
    space = {"n_layer": {"choice": [1, 2, 3, 4, 5]}}
    layers = [TrainConfig(max_tokens=8000, n_layer=n) for n in range(1, 6)]
    told = Told()
    earlier(
        told,
        ({"n_layer": 1}, "completed", layers[0]),
        ({"n_layer": 2}, "completed", layers[1].model_copy(update={"n_embd": 256})),  # of another base
        ({"n_layer": 3}, "pruned", layers[2]),
        ({"n_layer": 4}, "diverged", layers[3]),
        ({"n_layer": 5}, "completed", None),  # by a release that did not write the config
    )
    given = spec(kind, space, warm_start="before")
    distinct = Distinct(given, BASE)
    assert distinct.count(known=distinct.taken_before(told.study)) == 3
    points = asked(given, told, 4)
    assert points.pop() is None
    assert {point["n_layer"] for point in points if point} == {2, 3, 5}
    begin = spec(kind, space, warm_start="before", start=[{"n_layer": 1}])
    fresh = Told()
    earlier(fresh, ({"n_layer": 1}, "completed", layers[0]))
    assert asked(begin, fresh, 1) == [{"n_layer": 1}]  # asked for by name, it runs here


@pytest.mark.parametrize("kind", ["random", "tpe", "grid"])
def test_of_compared_values_the_others_go_on_when_one_is_used_up(kind: str) -> None:
    points = asked(spec(kind, compare="loss"), Told(), N + 1)
    assert points.pop() is None
    losses = [point["loss"] for point in points if point]
    assert Counter(losses) == {"cross_entropy": 2, "squentropy": 4, "mse": 2}
    assert all(len(set(losses[at : at + 3])) == 3 for at in (0, 3))


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_a_branch_without_end_goes_on_when_the_others_are_used_up(kind: str) -> None:
    space = {
        "n_layer": {"choice": [*range(1, 40)]},
        "learning_rate": {**RATE, "when": {"n_layer": 7}},
    }
    told = Told()
    points = asked(spec(kind, space), told, 60)
    assert None not in points
    assert len(set(keys(spec(kind, space), points))) == 60
    assert {point["n_layer"] for point in points if point} == {*range(1, 40)}
    assert Distinct(spec(kind, space), BASE).count() is None


def test_a_range_of_whole_numbers_has_an_end_and_keeps_its_distribution() -> None:
    given = spec("random", {"batch_size": {"log": [1, 64]}})
    points = asked(given, Told(), 65)
    assert points.pop() is None
    sizes = [point["batch_size"] for point in points if point]
    assert sorted(sizes) == [*range(1, 65)]
    assert sum(size <= 8 for size in sizes[:12]) >= 4  # half of the draws are; evenly it were 1 or 2


@pytest.mark.parametrize(
    ("space", "count"),
    [
        (SPACE, N),
        ({"n_layer": {"uniform": [1, 12]}, "loss": SPACE["loss"]}, 36),
        ({"learning_rate": RATE}, None),
        ({"n_layer": {"choice": [1, 2]}, "learning_rate": {**RATE, "when": {"n_layer": 1}}}, None),
        ({"batch_size": {"uniform": [1, 20_000]}}, None),
    ],
)
def test_distinct_configurations_are_counted(space: dict[str, Any], count: int | None) -> None:
    assert Distinct(spec("random", space), BASE).count() == count


def fresh(folder: Path, given: StudySpec) -> Ledger:
    ledger = Ledger(folder)
    data = {"corpus": "stories", "tokenizer": "char", "hash": "abc123", "floor": None}
    ledger.write("study", **header.fields(given, BASE, data, []))
    return ledger


def searcher(ledger: Ledger, given: StudySpec) -> LedgerSearcher:
    return LedgerSearcher(ledger, given, BASE, None, lambda config: 8000, lambda number: Path("/out") / str(number))


@each_sampler
def test_a_study_ends_with_its_space_and_its_journal_says_so(tmp_path: Path, kind: str) -> None:
    given = spec(kind, {"n_layer": {"choice": [1, 2]}}, budget={"trials": 8}, finalists={"top": 4, "seeds": 2})
    ledger = fresh(tmp_path, given)
    jobs = []
    while isinstance(job := searcher(ledger, given).suggest("x"), dict):
        assert exhausted_lines(ledger.study) == []
        number = job["trial"]
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, 4.0 + number)
        journals.end(ledger, number, "completed")
        jobs.append(job)
    assert job == Searcher.FINISHED
    assert len(ledger.study.searched) == 2
    assert {trial.of for trial in ledger.study.trials.values()} == {None, 0, 1}, "finalists are distinct"
    assert len(exhausted_lines(ledger.study)) == 1
    points = [record for record in read_records(ledger.journal.path) if record["record"] == "point"]
    assert len(points) == len(jobs) == 6


def test_a_budget_beyond_the_space_is_said_before_the_search() -> None:
    few = {"n_layer": {"choice": [1, 2]}}
    assert [
        line.split(",")[0] for line in advice(spec(space=few, budget={"trials": 8}), BASE, specs.facts(2_000_000))
    ] == ["budget.trials: 8"]
    for fits in (
        spec(space=few, budget={"trials": 2}),
        spec("grid", few, budget={"trials": 8}),
        spec(space={"learning_rate": RATE}),
    ):
        assert advice(fits, BASE, specs.facts(2_000_000)) == []
    assert len(advice(spec(space=few, budget={"hours": 1}), BASE, specs.facts(2_000_000))) == 1
