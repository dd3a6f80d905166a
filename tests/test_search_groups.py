"""`compare: loss`: values take turns, are tuned by their own trials, and meet only their own kind on the way."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.results.agreement import interval, kendall
from search.results.cautions import cautions
from search.run.plan import _finalists, _turns
from search.run.searcher import LedgerSearcher
from search.spec.study_spec import StudySpec
from search.stopping.asha import Asha, AshaSettings
from search.strategy.advice import advice
from search.strategy.finalists import candidates, in_doubt, pending
from search.strategy.groups import group_of, in_turn, turn
from search.study.folder import Weights
from search.study.ledger import Ledger
from search.study.study import Study
from tests import journals, specs
from tests.refusals import key_refusal
from tests.specs import sampler_of
from tests.test_search_folder import having_weights, with_weights
from tests.test_search_sampler import Told, asked
from trainer.config import TrainConfig

Settings, exempt = AshaSettings, AshaSettings.exempts
LOSSES = ["cross_entropy", "squentropy", "brier"]
BEST = {"cross_entropy": -3.0, "squentropy": -2.0, "brier": -1.3}  # log10 of each loss's best rate
BEHIND = {"cross_entropy": 0.0, "squentropy": 0.5, "brier": 2.0}  # nats
SPACE: dict[str, Any] = {
    "loss": {"choice": LOSSES},
    **{f"lr_{x}": {"field": "learning_rate", "log": [1e-4, 1e-1], "when": {"loss": x}} for x in LOSSES},
}


def spec(**more: Any) -> StudySpec:
    head = {"study": "s", "base": "b", "space": SPACE, "budget": {"trials": 12}, "compare": "loss", "seed": 3}
    return StudySpec.model_validate({**head, **more})


def perplexity(point: dict[str, Any]) -> float:
    away = abs(math.log10(point[f"lr_{point['loss']}"]) - BEST[point["loss"]])
    return math.exp(1 + BEHIND[point["loss"]] + away)


def search(given: StudySpec, n: int) -> Told:
    told, sampler = Told(), sampler_of(given)
    for number in range(n):
        point = sampler.ask(number, told.study)
        assert point is not None
        told.point(number, point)
        told.report(number, perplexity(point))
        told.end(number, "completed")
    return told


@pytest.mark.parametrize("kind", ["random", "tpe"])
def test_values_take_turns_whatever_they_score_and_the_order_is_shuffled(kind: str) -> None:
    told = search(spec(sampler=kind), 12)
    losses = [trial.point["loss"] for trial in told.study.searched]
    rounds = [losses[at : at + 3] for at in range(0, 12, 3)]
    assert all(sorted(one) == sorted(LOSSES) for one in rounds)
    assert len({tuple(one) for one in rounds}) > 1


def test_known_good_points_count_as_turns_and_one_without_the_value_gets_the_next() -> None:
    start = [{"loss": "brier", "lr_brier": 1e-2}, {"loss": "brier"}]
    told = search(spec(sampler="random", start=start), 6)
    assert [trial.point["loss"] for trial in told.study.searched][:2] == ["brier", "brier"]
    assert Counter(trial.point["loss"] for trial in told.study.searched) == dict.fromkeys(LOSSES, 2)
    space = {**SPACE, "dropout": {"choice": [0.0, 0.1]}}
    assert sampler_of(spec(sampler="tpe", space=space, start=[{"dropout": 0.1}])).ask(0, Study())["dropout"] == 0.1  # type: ignore[index]


def test_a_grid_gives_every_point_once_in_turns() -> None:
    space = {"loss": {"choice": LOSSES}, "n_layer": {"choice": [1, 2, 3, 4]}}
    given = spec(space=space, sampler="grid")
    told = Told()
    points = asked(given, told, 13)
    assert points.pop() is None
    assert all({p["loss"] for p in points[at : at + 3] if p} == set(LOSSES) for at in range(0, 12, 3))
    assert len({str(point) for point in points}) == 12


@given(counts=st.lists(st.integers(0, 6), min_size=3, max_size=3))
def test_whoever_has_fewest_is_next(counts: list[int]) -> None:
    told = Told()
    for loss, count in zip(LOSSES, counts, strict=True):
        for n in range(count):
            told.point(len(told.study.trials), {"loss": loss, f"lr_{loss}": 1e-3 * (n + 1)})
    assert counts[LOSSES.index(turn(spec(), told.study))] == min(counts)


def test_turns_go_on_where_the_points_begun_left_off() -> None:
    points = [{"loss": loss, "k": k} for loss in LOSSES for k in range(3)]
    found = in_turn(spec(), points[2:], points[:2])
    assert {point["loss"] for point in found[:4]} == {"squentropy", "brier"}
    assert sorted(map(str, found)) == sorted(map(str, points[2:]))


def test_tpe_tunes_the_rate_of_each_value_also_of_those_that_trail() -> None:
    """The last six proposals of each, half of them within half a decade of its best; the range has three."""
    compared, together = search(spec(sampler="tpe"), 45), search(spec(sampler="tpe", compare=None), 30)

    def away(told: Told, loss: str) -> float:
        rates = [trial.point[f"lr_{loss}"] for trial in told.study.searched if trial.point["loss"] == loss]
        return float(np.median([abs(math.log10(rate) - BEST[loss]) for rate in rates[-6:]]))

    assert max(away(compared, loss) for loss in LOSSES) < 0.5
    assert Counter(trial.point["loss"] for trial in together.study.searched)["brier"] < 10  # and why it is needed


def test_a_proposal_depends_on_the_trials_of_its_value_alone() -> None:
    told, other = search(spec(sampler="tpe"), 24), Told()
    nxt = turn(spec(), told.study)
    for trial in told.study.searched:  # the others' scores change, and nothing else
        other.point(trial.number, trial.point)
        score = perplexity(trial.point) if trial.point["loss"] == nxt else 1.1 + trial.number
        other.report(trial.number, score)
        other.end(trial.number, "completed")
    assert sampler_of(spec(sampler="tpe")).ask(24, told.study) == sampler_of(spec(sampler="tpe")).ask(24, other.study)


@given(values=st.lists(st.tuples(st.sampled_from("ab"), st.floats(-9, 9)), max_size=40))
def test_at_a_rung_a_trial_meets_its_own_kind_alone(values: list[tuple[str, float]]) -> None:
    together, apart = Asha(3), {"a": Asha(3), "b": Asha(3)}
    for trial, (group, value) in enumerate(values):
        assert together.report(trial, 1, value, group=group) == apart[group].report(trial, 1, value)


def test_promotions_go_to_the_group_with_the_fewest_and_at_the_end_each_brings_one_through() -> None:
    asha = Asha(2, "promote")
    for trial, value in enumerate([1.0, 2.0, 3.0, 4.0]):
        asha.report(trial, 1, value, group="a")
    for trial, value in enumerate([9.0, 8.0], 4):
        asha.report(trial, 1, value, group="b")
    asha.report(6, 1, 7.0, group="c")
    assert asha.promotion() == (0, 1)  # nobody of a or b has gone on but 5, who was the best of two at once
    asha.promote(0, 1, group="a")
    assert asha.promotion() == (1, 1)
    asha.promote(1, 1, group="a")
    assert asha.promotion() is None
    assert asha.promotion(last=True) == (6, 1)


def test_each_value_has_its_exempt_trials() -> None:
    settings = Settings(first_rung=1000)
    chosen = {group: [n for n in range(18) if exempt(settings, 7, n, group)] for group in LOSSES}
    assert all(len(numbers) == 3 for numbers in chosen.values())
    assert len({tuple(numbers) for numbers in chosen.values()}) > 1
    assert [n for n in range(18) if exempt(settings, 7, n)] == [n for n in range(18) if exempt(settings, 7, n, "")]


def ended(folder: Path, scores: list[tuple[str, float]]) -> Ledger:
    ledger = Ledger(folder)
    ledger.write("study", **journals.header())
    for number, (loss, value) in enumerate(scores):
        rate = 1e-3 * (number + 1)
        config = TrainConfig(max_tokens=journals.LENGTH, loss=loss, learning_rate=rate).model_dump()  # type: ignore[arg-type]
        point = {"loss": loss, f"lr_{loss}": rate}
        ledger.write("point", trial=number, point=point, config=config, name=loss, group=loss)
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, value)
        journals.end(ledger, number, "completed")
    return ledger


SCORES = [("cross_entropy", 2.0), ("cross_entropy", 2.1), ("cross_entropy", 2.2), ("cross_entropy", 2.3)]
SCORES += [("brier", 9.0), ("brier", 8.0), ("squentropy", 4.0)]


def finish(ledger: Ledger, job: dict[str, Any], value: float) -> None:
    journals.start(ledger, job["trial"])
    journals.report(ledger, job["trial"], journals.LENGTH, value)
    journals.end(ledger, job["trial"], "completed")


def test_the_best_of_each_value_runs_every_round_with_seeds_that_all_share(tmp_path: Path) -> None:
    ledger = ended(tmp_path, SCORES)
    given = spec(sampler="random", budget={"trials": 7}, finalists={"top": 1, "seeds": 3})
    asked = LedgerSearcher(ledger, given, TrainConfig(max_tokens=8000), None, lambda c: 8000, lambda n: Path(str(n)))
    runs = []
    while isinstance(job := asked.suggest("x"), dict):
        runs.append(ledger.study.trials[job["trial"]])
        finish(ledger, job, 3.0 + len(runs) / 7 + 3 * (runs[-1].group == "brier"))
    assert [(run.of, run.round) for run in runs] == [(of, r) for r in (1, 2, 3) for of in (0, 6, 5)]
    assert [run.group for run in runs[:3]] == ["cross_entropy", "squentropy", "brier"]
    assert len({run.config["seed"] for run in runs}) == 3
    assert pending(ledger.study, given) == []


def test_a_race_is_among_one_value_and_its_leader_runs_on(tmp_path: Path) -> None:
    assert candidates(ended(tmp_path, SCORES).study, 2) == [[0, 1], [6], [5, 4]]
    decided = {1: [2.00, 2.10], 2: [9.01, 9.09]}
    assert in_doubt(decided, 3) == []
    assert in_doubt(decided, 3, to_the_end=True) == [1]
    decided[1].append(2.05)
    assert in_doubt(decided, 4, to_the_end=True) == [1]
    assert in_doubt(decided, 3, to_the_end=True) == []


def test_the_best_of_each_value_keeps_its_weights(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    ledger.close()
    ledger = ended(tmp_path, SCORES)
    for number in range(len(SCORES)):
        with_weights(tmp_path, number)
    Weights(tmp_path, ledger.study)
    assert having_weights(tmp_path) == [0, 1, 2, 5, 6]


def test_a_journal_says_each_trials_group_and_an_exempt_one_is_counted_in_it(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    given = spec(sampler="random", budget={"trials": 36}, scheduler={"asha": {"first_rung": 1000, "factor": 2}})
    asked = LedgerSearcher(ledger, given, TrainConfig(max_tokens=8000), None, lambda c: 8000, lambda n: Path(str(n)))
    for _ in range(36):
        asked.suggest("x")
    trials = ledger.study.searched
    assert all(trial.group == trial.point["loss"] == group_of(given, trial.point) for trial in trials)
    assert Counter(trial.group for trial in trials if trial.exempt) == dict.fromkeys(LOSSES, 2)  # of 12 each


@pytest.mark.parametrize(
    ("text", "kind", "keys", "problem"),
    [
        ("compare: los\n", "unknown", ("compare",), "compare: los is no parameter of the space; did you mean loss?"),
        (
            "compare: learning_rate\n",
            "no_choice",
            ("compare",),
            "compare: learning_rate is a range; its values cannot take turns: use a choice",
        ),
        (
            "compare: squentropy_lambda\n",
            "conditional",
            ("compare",),
            "compare: squentropy_lambda does not exist everywhere (when); compare one that does",
        ),
        ("compare: mlp\n", "single", ("compare",), "compare: mlp has one value; there is nothing to compare it with"),
        (
            "finalists: {top: 1, seeds: 3}\n",
            "single",
            ("finalists", "compare"),
            "finalists: top: 1 has nobody to race with; use at least 2, or compare: PARAMETER",
        ),
    ],
)
def test_a_mistake_is_refused_with_its_place(
    tmp_path: Path, text: str, kind: str, keys: tuple[str, ...], problem: str
) -> None:
    space = "space:\n  loss: {choice: [cross_entropy, squentropy]}\n  learning_rate: {log: [1e-4, 1e-2]}\n"
    space += "  mlp: {choice: [gelu]}\n  squentropy_lambda: {choice: [0.1, 1], when: {loss: squentropy}}\n"
    error = key_refusal(lambda: specs.read(tmp_path, text + space))
    assert (error.line, error.kind, error.keys, error.problem) == (4, kind, keys, problem)


def test_plan_says_what_comparing_costs() -> None:
    given = spec(finalists={"top": 1, "seeds": 3})
    assert _finalists(given, 1000)["finalists"] == (
        "the best 1 of each loss again with 3 fresh seeds: at most 9 runs (9k tokens) after the search"
    )
    assert _turns(given).startswith("; the 3 values of loss take turns, each searched by itself, about 4 trials each")


def test_values_that_the_budget_leaves_without_a_trial_are_said_before() -> None:
    few = advice(spec(budget={"trials": 2}), TrainConfig(), specs.facts(2_000_000))
    assert few == ["budget.trials: 2, but loss has 3 values to compare: 1 of them get no trial"]
    assert advice(spec(), TrainConfig(), specs.facts(2_000_000)) == []


def test_cautions_are_about_turns_and_not_about_what_rungs_stopped(tmp_path: Path) -> None:
    ledger = ended(tmp_path / "a", [(loss, 2.0 + n) for n, loss in enumerate(LOSSES * 2)])
    for number in (6, 7):  # more of one loss at full length is no caution, as long as each had its turns
        journals.point(ledger, number, loss="brier")
        ledger.study.trials[number].group = "brier"
    assert not any("loss" in line for line in cautions(ledger.study, spec()))
    few = ended(tmp_path / "b", [("cross_entropy", 2.0), ("squentropy", 3.0)])
    text = "\n".join(cautions(few.study, spec()))
    assert "loss: values had unequal numbers of trials (cross_entropy 1, squentropy 1, brier 0)" in text
    assert "loss: no trial of brier came to its end" in text


def test_how_well_rungs_predict_is_told_within_values_and_not_between_them() -> None:
    within = np.arange(8.0)
    groups = np.repeat(np.arange(4), 8)
    x = groups * 100 + np.tile(within, 4)
    y = groups * 100 + np.concatenate([within, within[::-1]] * 2)  # as often right as wrong
    assert (kendall(x, y) or 0) > 0.7
    assert kendall(x, y, groups) == 0
    low, high = interval(0, 8, 8, 8, 8)
    assert -low == pytest.approx(high)
    assert 0 < high < interval(0, 8)[1]
