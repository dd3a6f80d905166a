"""What the sampler proposes, and what Optuna is told."""

from __future__ import annotations

import json
import math
import time
import warnings
from typing import Any

import optuna
import pytest

from search.journal import Record, encode
from search.points import exists
from search.sampler import Sampler
from search.spec import StudySpec
from search.study import Study

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
    told = search(Sampler(given), n, workers=3)
    again, sampler = Study(), Sampler(given)
    for record in told.records:
        if record["record"] == "point":
            # a fresh sampler, as after a crash, and one that has asked before
            assert record["point"] == Sampler(given).ask(record["trial"], again)
            assert record["point"] == sampler.ask(record["trial"], again)
        again.apply(record)


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_points_lie_in_the_space_and_survive_the_trip(kind: str) -> None:
    told = search(Sampler(spec(kind)), 40)
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
    sampler, nothing = Sampler(spec("random")), Study()
    told = search(sampler, 12)
    assert [told.study.trials[n].point for n in range(12)] == [sampler.ask(n, nothing) for n in range(12)]
    assert sampler.ask(3, nothing) != sampler.ask(4, nothing)
    assert sampler.ask(3, nothing) != Sampler(spec("random", seed=8)).ask(3, nothing)


def test_a_grid_gives_every_point_once_in_an_order_that_the_seed_shuffles() -> None:
    sampler, nothing = Sampler(spec("grid", GRID)), Study()
    found = [sampler.ask(number, nothing) for number in range(9)]
    assert len({json.dumps(point, sort_keys=True) for point in found}) == 9  # 3 + 3 x 2, not 3 x 2 x 2
    assert sampler.ask(9, nothing) is None
    assert found != sorted(found, key=lambda point: (point["n_layer"], point["loss"]))  # type: ignore[index]
    assert found != [Sampler(spec("grid", GRID, seed=8)).ask(number, nothing) for number in range(9)]


@pytest.mark.parametrize("objective", ["val_perplexity", "val_bits_per_byte"])
def test_optuna_is_told_the_truth(objective: str) -> None:
    told = Told()
    sampler = Sampler(spec("tpe", objective=objective))
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
    for number, status in ((3, "diverged"), (4, "failed"), (5, "out_of_memory"), (6, "interrupted")):
        told.report(number, 2.0, rung=1000)  # good while it lasted
        told.end(number, status)
    trials = sampler._told(told.study)
    states = [trial.state.name for trial in trials]
    assert states == ["COMPLETE"] * 2 + ["PRUNED"] + ["COMPLETE"] * 3 + ["RUNNING"] * 2
    assert trials[0].value == pytest.approx(math.log(8))
    assert trials[1].value == pytest.approx(math.log(7))
    assert trials[2].intermediate_values == pytest.approx({1000: math.log(20), 4000: math.log(12)})
    worst = math.log(20)
    for broken in trials[3:6]:
        assert broken.value is not None
        assert worst < broken.value < worst + 1
        assert max(broken.constraints.values()) > 0
    assert all(max(trial.constraints.values()) <= 0 for trial in trials[:3])
    assert [trial.params["width"] for trial in trials[:1]] == [
        SPACE["width"]["choice"].index(told.study.trials[0].point["width"])
    ]


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
        point = Sampler(spec("tpe", space, seed=seed)).ask(24, told.study)
        assert point is not None
        near += point["learning_rate"] > 0.04
    assert near == 0


@pytest.mark.parametrize("status", ["diverged", "pruned", "completed", "running"])
@pytest.mark.parametrize("kind", ["tpe", "gp"])
def test_one_sided_studies_give_points_too(kind: str, status: str) -> None:
    told, sampler = Told(), Sampler(spec(kind, SMALL))
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
            told = search(Sampler(spec(kind, SMALL, seed=seed)), 40)
            found.append(min(perplexity(trial.point) for trial in told.study.trials.values() if trial.final))
        return sorted(found)

    tpe, chance = least("tpe"), least("random")
    assert tpe[1] < chance[1]  # the median of three seeds
    assert tpe[1] < math.e * 1.15


def test_running_trials_keep_parallel_workers_apart() -> None:
    space = {"learning_rate": {"log": [1e-4, 1e-1]}}
    told = search(Sampler(spec("tpe", space)), 30)
    alone, apart = [], []
    for number in range(30, 34):
        alone.append(Sampler(spec("tpe", space)).ask(number, told.study))
    for number in range(30, 34):
        point = Sampler(spec("tpe", space)).ask(number, told.study)
        assert point is not None
        told.point(number, point)
        apart.append(point)
    assert alone != apart


def test_optuna_is_silent_and_its_settings_are_left_alone(capfd: pytest.CaptureFixture[str]) -> None:
    before = optuna.logging.get_verbosity()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        search(Sampler(spec("tpe")), 12)
    assert not heard
    assert capfd.readouterr() == ("", "")
    assert optuna.logging.get_verbosity() == before


def test_an_ask_after_a_hundred_trials_takes_a_moment() -> None:
    sampler, told = Sampler(spec("tpe")), search(Sampler(spec("random")), 100)
    started = time.perf_counter()
    for number in range(100, 105):
        sampler.ask(number, told.study)
    assert (time.perf_counter() - started) / 5 < 0.3  # 0.03 s on an idle core
