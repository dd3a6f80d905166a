"""What the sampler proposes, and what Optuna is told."""

from __future__ import annotations

import json
import math
import time
import warnings
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch

from search.spec.points import exists
from search.spec.study_spec import StudySpec
from search.strategy.sampler import Sampler
from search.study.journal import NAME, Record, encode, read_records
from search.study.ledger import Ledger
from search.study.study import Study
from tests import journals
from tests.specs import sampler_of

torch.set_num_threads(1)  # the GP's small matrices: threads that wait for each other take most of the time

SPACE: dict[str, Any] = {
    # written before its parent on purpose
    "squentropy_lambda": {"log": [1e-3, 1], "when": {"loss": "squentropy"}},
    "learning_rate": {"log": [1e-4, 1e-1]},
    "dropout": {"choice": [0, 0.1, 0.2]},
    "n_layer": {"uniform": [1, 12]},
    "batch_size": {"log": [1, 256]},
    "width": {"choice": [{"n_embd": 64, "n_head": 2}, {"n_embd": 128, "n_head": 4}]},
    "vocab_size": {"choice": [None, 128]},
    "loss": {"choice": ["cross_entropy", "squentropy"]},
}
SMALL: dict[str, Any] = {name: SPACE[name] for name in ("learning_rate", "dropout", "loss")}
GRID: dict[str, Any] = {
    "n_layer": {"choice": [1, 2, 3]},
    "loss": {"choice": ["cross_entropy", "squentropy"]},
    "squentropy_lambda": {"choice": [0.1, 1.0], "when": {"loss": "squentropy"}},
}


def spec(sampler: str, space: dict[str, Any] | None = None, seed: int = 7, **more: Any) -> StudySpec:
    head = {"study": "s", "base": "b", "budget": {"trials": 99}, "sampler": sampler, "seed": seed}
    return StudySpec.model_validate({**head, "space": space or SPACE, **more})


def perplexity(point: dict[str, Any]) -> float:
    """A bowl: best at learning rate 3e-3, without dropout, with cross-entropy."""
    away = abs(math.log10(point["learning_rate"]) + 2.5)
    return math.exp(1 + away + point.get("dropout", 0) + 0.3 * (point.get("loss") == "squentropy"))


class Told:
    """A study fed record by record, each as the journal would give it back, and those records."""

    def __init__(self) -> None:
        self.study, self.records = Study(), []
        self.write({"record": "study"})

    def write(self, record: Record) -> None:
        self.records.append(json.loads(encode({"time": 0.0, **record})))
        self.study.apply(self.records[-1])

    def point(self, number: int, point: dict[str, Any]) -> None:
        self.write({"record": "point", "trial": number, "point": point, "config": {}})
        self.write({"record": "status", "trial": number, "status": "running"})

    def report(self, number: int, value: float, rung: int | None = None) -> None:
        fields = {"step": 1, "tokens": rung or 9999, "rung": rung, "final": rung is None, "checkpoint": None}
        metrics = {"val_perplexity": value, "val_bits_per_byte": math.log(value)}
        self.write({"record": "report", "trial": number, **fields, "metrics": metrics})

    def end(self, number: int, status: str) -> None:
        self.write({"record": "status", "trial": number, "status": status})


def search(sampler: Sampler, n: int, workers: int = 1, told: Told | None = None) -> Told:
    """A search of n trials: high learning rates diverge, every third of the others is pruned, the rest complete."""
    told = told or Told()
    for number in range(len(told.study.trials), n):
        point = sampler.ask(number, told.study)
        assert point is not None
        told.point(number, point)
        if number >= workers - 1:
            finish(told, number - workers + 1)
    return told


def asked(given: StudySpec, told: Told, n: int) -> list[dict[str, Any] | None]:
    """The next n proposals, each of which begins at once and has not ended when the next is asked for."""
    points = []
    for _ in range(n):
        number = len(told.study.trials)
        points.append(sampler_of(given).ask(number, told.study))
        if points[-1] is not None:
            told.point(number, points[-1])
    return points


def finish(told: Told, number: int) -> None:
    point = told.study.trials[number].point
    if point["learning_rate"] > 0.03:
        told.end(number, ("diverged", "failed", "out_of_memory")[number % 3])
        return
    told.report(number, 2 * perplexity(point), rung=1000)
    if number % 3 == 0:
        told.end(number, "pruned")
    else:
        told.report(number, perplexity(point))
        told.end(number, "completed")


@pytest.mark.parametrize(("kind", "n"), [("grid", 9), ("random", 40), ("tpe", 24), ("gp", 12)])
def test_replayed_from_the_journal_it_proposes_the_same_points(kind: str, n: int) -> None:
    spaces = {"grid": GRID | {"learning_rate": {"choice": [1e-3]}}, "gp": SMALL}
    given = spec(kind, spaces.get(kind, SPACE))
    told = search(sampler_of(given), n, workers=3)
    again, sampler = Study(), sampler_of(given)
    for record in told.records:
        if record["record"] == "point":
            # a fresh sampler, as after a crash, and one that has asked before
            assert record["point"] == sampler_of(given).ask(record["trial"], again)
            assert record["point"] == sampler.ask(record["trial"], again)
        again.apply(record)


class Journalled(Told):
    """The same on disk, through the ledger of a driver."""

    def __init__(self, folder: Path) -> None:
        self.ledger = Ledger(folder)
        self.study, self.records = self.ledger.study, []
        self.write({"record": "study", **journals.header()})

    def write(self, record: Record) -> None:
        self.records.append(self.ledger.write(**record))


@pytest.mark.parametrize(("kind", "n"), [("tpe", 20), ("gp", 11)])
def test_every_proposal_of_a_journal_follows_from_what_stood_there_before_it(kind: str, n: int, tmp_path: Path) -> None:
    """A whole life: priors, start points, every kind of end, a pause, a promotion, a crash, three workers."""
    start = [{"learning_rate": 3e-3}, {"dropout": 0.1, "loss": "squentropy"}]
    given = spec(kind, SMALL, start=start, warm_start="before")
    told = Journalled(tmp_path / "s")
    for number, status in enumerate(["completed", "pruned", "diverged"] * 3):
        point = {"learning_rate": 1e-3 * (number + 1), "dropout": 0.2, "loss": "cross_entropy"}
        value = perplexity(point) if status == "completed" else None
        about: dict[str, Any] = {"study": "before", "trial": number, "status": status, "tokens": 9999, "point": point}
        about |= {"scores": {1000: 2 * perplexity(point)}, "objective": value}
        told.write({"record": "prior", "trials": [about]})
    ends = ["completed", "pruned", "completed", "paused", "diverged", "completed", "failed", "out_of_memory"]
    for number in range(n):
        asked = sampler_of(given).ask(number, told.study)
        assert asked is not None
        told.write({"record": "point", "trial": number, "point": asked, "config": {}, "exempt": number % 5 == 0})
        told.write({"record": "status", "trial": number, "status": "running"})
        if number == 8:
            told.write({"record": "study", **journals.header()})  # a driver that died, and the next
            told.end(number, "interrupted")
        over = number - 2
        if over < 0:
            continue
        status = ends[over % len(ends)]
        if status in ("completed", "pruned", "paused"):
            told.report(over, 2 * perplexity(told.study.trials[over].point), rung=1000)
        if status == "completed":
            told.report(over, perplexity(told.study.trials[over].point))
        told.end(over, status)
        if over == 4:
            told.write({"record": "decision", "trial": 3, "rung": 1000, "action": "promote"})
    told.end(3, "paused")  # at its next rung
    told.ledger.close()
    again, asked_for = Study(), 0
    for record in read_records(tmp_path / "s" / NAME):
        if record["record"] == "point":
            assert record["point"] == sampler_of(given).ask(record["trial"], again)
            asked_for += 1
        again.apply(record)
    assert asked_for == n
    assert {trial.status for trial in again.trials.values()} >= {*ends, "running"}


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_points_lie_in_the_space_and_survive_the_trip(kind: str) -> None:
    told = search(sampler_of(spec(kind)), 40)
    seen: dict[str, set[str]] = {name: set() for name in SPACE}
    for trial in told.study.trials.values():
        point = trial.point
        assert list(point) == [name for name in SPACE if name in point]
        assert ("squentropy_lambda" in point) == (point["loss"] == "squentropy")
        assert all(exists(spec(kind).space, name, point) for name in point)
        for name, value in point.items():
            seen[name].add(json.dumps(value))
            if "choice" in SPACE[name]:
                assert any(value == option and type(value) is type(option) for option in SPACE[name]["choice"])
            else:
                low, high = SPACE[name].get("log") or SPACE[name]["uniform"]
                assert low <= value <= high
                assert isinstance(value, int if name in ("n_layer", "batch_size") else float)
    if kind == "random":
        assert all(len(seen[name]) == len(SPACE[name]["choice"]) for name in seen if "choice" in SPACE[name])
        # uniform in the logarithm: half of the batch sizes are at most 16, not one in sixteen
        assert sum(trial.point["batch_size"] <= 16 for trial in told.study.trials.values()) > 10


def test_a_random_point_depends_on_seed_and_number_alone() -> None:
    sampler, nothing = sampler_of(spec("random")), Study()
    told = search(sampler, 12)
    assert [told.study.trials[n].point for n in range(12)] == [sampler.ask(n, nothing) for n in range(12)]
    assert sampler.ask(3, nothing) != sampler.ask(4, nothing)
    assert sampler.ask(3, nothing) != sampler_of(spec("random", seed=8)).ask(3, nothing)


def test_a_grid_gives_every_point_once_in_an_order_that_the_seed_shuffles() -> None:
    found = asked(spec("grid", GRID), Told(), 10)
    assert found.pop() is None
    assert len({json.dumps(point, sort_keys=True) for point in found}) == 9  # 3 + 3 x 2, not 3 x 2 x 2
    assert found != sorted(found, key=lambda point: (point["n_layer"], point["loss"]))  # type: ignore[index]
    assert found != asked(spec("grid", GRID, seed=8), Told(), 9)


@pytest.mark.parametrize("objective", ["val_perplexity", "val_bits_per_byte"])
def test_optuna_is_told_the_truth(objective: str) -> None:
    told = Told()
    sampler = sampler_of(spec("tpe", objective=objective))
    for number in range(8):
        point = sampler.ask(number, told.study)
        assert point is not None
        told.point(number, point)
    told.report(0, 9.0, rung=1000)
    told.report(0, 8.0)
    told.end(0, "completed")
    told.report(1, 7.0)
    told.end(1, "early_stopped")
    told.report(2, 20.0, rung=1000)
    told.report(2, 12.0, rung=4000)
    told.end(2, "pruned")
    for number, status in ((3, "diverged"), (4, "failed"), (5, "out_of_memory"), (6, "interrupted"), (7, "paused")):
        told.report(number, 2.0, rung=1000)  # good while it lasted
        told.end(number, status)
    trials = sampler._history(told.study)
    states = [trial.state.name for trial in trials]
    assert states == ["COMPLETE"] * 2 + ["PRUNED"] + ["COMPLETE"] * 3 + ["RUNNING", "PRUNED"]
    assert trials[0].value == pytest.approx(math.log(8))
    assert trials[1].value == pytest.approx(math.log(7))
    assert trials[2].intermediate_values == pytest.approx({1000: math.log(20), 4000: math.log(12)})
    worst = math.log(8)  # at full length: a value at a rung is worse by what training still does
    for broken in trials[3:6]:
        assert broken.value is not None
        assert worst < broken.value < worst + 0.1
        assert max(broken.constraints.values()) > 0
    assert all(max(trial.constraints.values()) <= 0 for trial in (*trials[:3], trials[7]))
    assert trials[7].intermediate_values == pytest.approx({1000: math.log(2)})
    assert [trial.params["width"] for trial in trials[:1]] == [
        SPACE["width"]["choice"].index(told.study.trials[0].point["width"])
    ]


@pytest.mark.parametrize("objective", ["val_perplexity", "val_bits_per_byte"])
def test_an_earlier_studys_trials_are_told_first_as_what_they_count_here(objective: str) -> None:
    told = Told()
    point = {"learning_rate": 1e-3, "dropout": 0.1, "loss": "cross_entropy"}
    for number, (status, scores, value) in enumerate(
        [
            ("completed", {1000: 9.0, 8000: 5.0}, 5.0),
            ("completed", {1000: 8.0, 2000: 7.0}, None),  # of a study of shorter trials
            ("pruned", {1000: 11.0}, None),
            ("paused", {1000: 10.0}, None),
            ("interrupted", {1000: 9.5}, None),
            ("running", {1000: 9.6}, None),
            ("diverged", {}, None),
            ("failed", {1000: 9.0}, None),
            ("out_of_memory", {}, None),
        ]
    ):
        about = {"study": "before", "trial": number, "status": status, "tokens": 8000, "point": point}
        told.write({"record": "prior", "trials": [{**about, "scores": scores, "objective": value}]})
    told.point(0, point)
    told.report(0, 4.0)
    told.end(0, "completed")
    scale = math.log if objective == "val_perplexity" else float
    trials = sampler_of(spec("tpe", SMALL, objective=objective))._history(told.study)
    assert [trial.state.name for trial in trials] == ["COMPLETE"] + ["PRUNED"] * 5 + ["COMPLETE"] * 4
    assert trials[0].value == pytest.approx(scale(5.0))
    assert trials[1].intermediate_values == pytest.approx({1000: scale(8.0), 2000: scale(7.0)})
    assert [max(trial.constraints.values()) > 0 for trial in trials] == [False] * 6 + [True] * 3 + [False]
    assert all(trial.value is not None and 0 < trial.value - scale(5.0) < 0.3 for trial in trials[6:9])
    assert trials[9].value is not None
    assert trials[9].value < trials[0].value  # ours, after the priors


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_an_earlier_study_spares_the_random_beginning(kind: str) -> None:
    before = search(sampler_of(spec("random", SMALL)), 40)
    away = []
    for seed in range(3):
        told = Told()
        for trial in before.study.trials.values():
            value = trial.final["metrics"]["val_perplexity"] if trial.final else None
            scores = {1000: 2 * perplexity(trial.point)} if trial.status == "pruned" else {}
            about: dict[str, Any] = {"study": "before", "trial": trial.number, "status": trial.status, "tokens": 9999}
            about |= {"point": trial.point, "scores": scores, "objective": value}
            told.write({"record": "prior", "trials": [about]})
        point = sampler_of(spec(kind, SMALL, seed=seed)).ask(0, told.study)
        assert point is not None
        away.append(abs(math.log10(point["learning_rate"]) + 2.5))
    assert max(away) < 0.8  # of 1.5: the very first points are near the best; at random one in two is not


@pytest.mark.parametrize("kind", ["random", "tpe", "gp"])
def test_known_good_points_come_first_and_what_they_leave_out_is_proposed(kind: str) -> None:
    start = [
        {"learning_rate": 3e-3, "loss": "squentropy", "squentropy_lambda": 0.5},
        {"n_layer": 12, "width": {"n_head": 4, "n_embd": 128}, "dropout": 0.0, "vocab_size": None},
    ]
    given = spec(kind, start=start)
    told = search(sampler_of(given), 2)
    first, second = (told.study.trials[number].point for number in range(2))
    assert first | start[0] == first
    assert set(first) == set(SPACE)  # all that exist there
    assert second | start[1] == second
    assert [second["dropout"], type(second["dropout"])] == [0, int]  # the space's own
    assert first["n_layer"] != second["n_layer"] or first["batch_size"] != second["batch_size"]
    assert sampler_of(given).ask(2, told.study) == sampler_of(spec(kind)).ask(
        2, told.study
    )  # from then on as without them
    assert first["dropout"] in SPACE["dropout"]["choice"]


def test_a_grid_gives_its_start_points_first_and_none_twice() -> None:
    start = [{"n_layer": 5, "loss": "cross_entropy"}, {"n_layer": 2, "loss": "squentropy", "squentropy_lambda": 1}]
    found = asked(spec("grid", GRID, start=start), Told(), 11)
    assert found.pop() is None
    assert found[:2] == start
    assert found[2:] == [point for point in asked(spec("grid", GRID), Told(), 9) if point != start[1]]


def test_broken_trials_rank_behind_pruned_ones() -> None:
    """As COMPLETE alone they would count among the good ones: Optuna ranks every pruned trial below."""
    space = {"learning_rate": {"log": [1e-4, 1e-1]}}
    near = 0
    for seed in range(20):
        told = Told()
        for number in range(24):
            broken = number % 2 == 0
            told.point(number, {"learning_rate": 0.08 if broken else 2e-3 * (1 + number / 100)})
            if broken:
                told.end(number, "diverged")
            else:
                told.report(number, 5.0 + number / 100, rung=1000)
                told.end(number, "pruned")
        point = sampler_of(spec("tpe", space, seed=seed)).ask(24, told.study)
        assert point is not None
        near += point["learning_rate"] > 0.04
    assert near == 0


@pytest.mark.parametrize("status", ["diverged", "pruned", "paused", "completed", "running"])
@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_one_sided_studies_give_points_too(kind: str, status: str) -> None:
    told, sampler = Told(), sampler_of(spec(kind, SMALL))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for number in range(11):  # 10 at random, then the model's first
            point = sampler.ask(number, told.study)
            assert point is not None
            told.point(number, point)
            if status == "completed":
                told.report(number, 5.0)
            if status != "running":
                told.end(number, status)


def test_tpe_finds_the_bowl_where_random_only_passes_by() -> None:
    def least(kind: str) -> list[float]:
        found = []
        for seed in range(3):
            told = search(sampler_of(spec(kind, SMALL, seed=seed)), 40)
            found.append(min(perplexity(trial.point) for trial in told.study.trials.values() if trial.final))
        return sorted(found)

    tpe, chance = least("tpe"), least("random")
    assert tpe[1] < chance[1]  # the median of three seeds
    assert tpe[1] < math.e * 1.15


@pytest.mark.parametrize(("kind", "n"), [("tpe", 40), ("gp", 14)])
def test_no_point_is_trained_twice_as_long_as_there_are_others(kind: str, n: int) -> None:
    space = {"n_layer": {"uniform": [1, 20]}, "dropout": {"choice": [0, 0.1]}}
    told, first = Told(), sampler_of(spec("random", space))
    for number in range(n):
        # all beyond the tenth run at once: nothing is learned between the proposals
        point = (sampler_of(spec(kind, space)) if number > 10 else first).ask(number, told.study)
        assert point is not None
        told.point(number, point)
        if number <= 10:
            told.report(number, math.exp(1 + abs(point["n_layer"] - 10) / 10))
            told.end(number, "completed")
    later = [json.dumps(told.study.trials[number].point) for number in range(11, n)]
    before = {json.dumps(told.study.trials[number].point) for number in range(11)}
    assert len({*later} - before) == len(later)
    if kind == "tpe":  # 40 points in all: then there are no others
        assert asked(spec(kind, space), told, 1) == [None]


@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_running_trials_move_the_next_proposal_away(kind: str) -> None:
    space = {"learning_rate": {"log": [1e-4, 1e-1]}}
    told = search(sampler_of(spec(kind, space)), 20)
    asked = sampler_of(spec(kind, space)).ask(20, told.study)
    assert asked is not None
    away = []
    for running in (0, 4):
        for number in range(20, 20 + running):
            told.point(number, {"learning_rate": asked["learning_rate"] * (1 + number / 1000)})
        found = [
            sampler_of(spec(kind, space)).ask(number, told.study) for number in range(30, 32 if kind == "gp" else 42)
        ]
        away.append(sum(abs(math.log(point["learning_rate"] / asked["learning_rate"])) for point in found if point))
    assert away[1] > away[0]


def test_optuna_is_silent_and_its_settings_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        search(sampler_of(spec("tpe")), 12)
    assert not heard
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_an_ask_after_a_hundred_trials_takes_a_moment() -> None:
    sampler, told = sampler_of(spec("tpe")), search(sampler_of(spec("random")), 100)
    started = time.process_time()
    for number in range(100, 105):
        sampler.ask(number, told.study)
    assert (time.process_time() - started) / 5 < 0.3  # 0.03 s
