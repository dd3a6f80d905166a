"""What every stopping rule keeps, whichever it is: the same tests run over each that is registered.

A new rule needs no test here; tests/test_search_new_rule.py shows it.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from search.report import page
from search.report.leader_text import Samples
from search.results import table
from search.results.agreement import agreement
from search.results.survival import survival
from search.spec.study_spec import StudySpec
from search.stopping.registry import RULES, Scheduler
from search.stopping.rule import Decision, Rule, Settings
from search.strategy.stopping import rebuild
from search.study.journal import encode
from search.study.study import Study, fold
from tests import journals, simulated, specs
from tests.refusals import key_refusal, place
from trainer.config import TrainConfig

# every rule with its defaults; and what of the present ones is different enough
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in RULES),
    ("asha", {"mode": "promote", "factor": 2}),
    ("asha", {"factor": 2, "brackets": 2}),
    ("asha", {"mode": "synchronous", "factor": 2}),
    ("median", {"min_trials": 1, "every": 500}),
]
each_variant = pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: " ".join([v[0], *map(str, v[1].values())]))
each_rule = pytest.mark.parametrize("name", RULES)
_40_times = hypothesis_settings(max_examples=40, deadline=None)
SEEDS = st.integers(0, 10**6)
LENGTH = 8000


def settings_of(variant: tuple[str, dict[str, Any]]) -> Settings:
    name, more = variant
    return Scheduler.model_validate({name: {"first_rung": 1000, **more}}).settings


def study_spec(variant: tuple[str, dict[str, Any]]) -> StudySpec:
    name, more = variant
    plain = specs.space(learning_rate={"log": [1e-4, 1]}).model_dump()
    return StudySpec.model_validate({**plain, "scheduler": {name: {"first_rung": 1000, **more}}})


class Race:
    """Trials that come to rungs in random order, as in a study: who is stopped or paused comes no more."""

    def __init__(self, settings: Settings, seed: int, trials: int = 24, groups: tuple[str, ...] = ("",)) -> None:
        self.random = random.Random(seed)
        self.treatment: dict[int, dict[str, Any]] = {}
        self.ahead: dict[int, list[int]] = {}
        n_rungs = len(settings.rungs(LENGTH))
        for trial in range(trials):
            group = groups[trial % len(groups)]
            bracket = settings.bracket(7, trial, n_rungs, group)
            self.treatment[trial] = {"bracket": bracket, "exempt": settings.exempts(7, trial, group), "group": group}
            self.ahead[trial] = settings.rungs(LENGTH, bracket)

    def arrivals(self) -> Iterator[tuple[int, int, float]]:
        """Trial, rung, value. Whoever consumes it calls `leave` for a trial that goes no further."""
        while going := [trial for trial, rungs in self.ahead.items() if rungs]:
            trial = self.random.choice(going)
            yield trial, self.ahead[trial].pop(0), self.random.choice([self.random.gauss(5, 1), 5.0])

    def leave(self, trial: int) -> None:
        self.ahead[trial] = []

    def run(self, rule: Rule) -> list[tuple[int, int, Decision]]:
        """Every decision, in order."""
        decisions = []
        for trial, rung, value in self.arrivals():
            decisions.append((trial, rung, rule.report(trial, rung, value, **self.treatment[trial])))
            if decisions[-1][2].action in ("stop", "pause"):
                self.leave(trial)
        return decisions


# settings


@each_variant
@_40_times
@given(first=st.integers(1, 10**6), length=st.integers(1, 10**7), shorter=st.integers(1, 10**7))
def test_rungs_ascend_from_the_first_to_below_the_end(
    variant: tuple[str, dict[str, Any]], first: int, length: int, shorter: int
) -> None:
    first = max(first, length // 100)
    name, more = variant
    more = {key: value for key, value in more.items() if key != "every"}
    settings = Scheduler.model_validate({name: {"first_rung": first, **more}}).settings
    rungs = settings.rungs(length)
    assert all(one < other for one, other in itertools.pairwise([*rungs, length]))
    assert rungs[:1] == ([first] if first < length else []), "nobody is compared before the first rung"
    short = settings.rungs(min(length, shorter))
    assert rungs[: len(short)] == short, "trials of different length are compared at the same rungs"
    brackets = {settings.bracket(7, trial, len(rungs)) for trial in range(30)}
    assert all({*settings.rungs(length, bracket)} <= {*rungs} for bracket in brackets)


@each_rule
def test_a_first_rung_beyond_the_end_is_refused_with_its_line(tmp_path: Path, name: str) -> None:
    text = f"space: {{n_layer: {{choice: [1, 2]}}}}\nscheduler:\n  {name}:\n    first_rung: 2M\n"
    error = key_refusal(lambda: specs.read(tmp_path, text))
    assert (place(error), error.kind) == (f"7: scheduler.{name}.first_rung", "conflict")
    assert error.keys == ("first_rung", "max_tokens")


@each_rule
def test_an_unknown_key_is_answered_with_the_nearest(tmp_path: Path, name: str) -> None:
    text = f"space: {{n_layer: {{choice: [1, 2]}}}}\nscheduler: {{{name}: {{first_rung: 1M, exemt: 0.1}}}}\n"
    error = key_refusal(lambda: specs.read(tmp_path, text))
    assert (place(error), error.kind) == (f"5: scheduler.{name}.exemt", "extra_forbidden")
    assert error.problem == "unknown key; did you mean exempt?"


@each_rule
def test_the_journal_holds_the_rule_alone_under_its_name(tmp_path: Path, name: str) -> None:
    text = f"space: {{n_layer: {{choice: [1, 2]}}}}\nscheduler: {{{name}: {{first_rung: 500k}}}}\n"
    spec, base, _ = specs.read(tmp_path, text)
    plain = json.loads(encode(spec.model_dump(mode="json")))
    assert [*plain["scheduler"]] == [name]
    assert plain["scheduler"][name]["first_rung"] == 500_000
    assert StudySpec.model_validate(plain) == spec
    assert spec.scheduler is not None
    assert spec.scheduler.name == name
    assert spec.stopping is not None
    assert base.schedule == ("wsd" if spec.stopping.compares else "cosine")


@each_rule
def test_a_rule_is_documented_where_editors_and_plan_look(name: str) -> None:
    settings = settings_of((name, {}))
    assert type(settings).__doc__
    assert all(field.description for field in type(settings).model_fields.values()), "a docstring under each field"
    assert all(settings.describe(compare) for compare in (None, "loss"))
    assert any(key == "exempt" for key, _ in settings.model_copy(update={"exempt": 0}).advice([1000], 9))
    for key, text in settings.model_copy(update={"exempt": 0}).advice([1000], 1):
        assert key in type(settings).model_fields
        assert text
        assert "\n" not in text


@each_rule
def test_exempt_trials_depend_on_the_seed_and_the_place_alone(name: str) -> None:
    settings = settings_of((name, {}))
    chosen = [place for place in range(200) if settings.exempts(7, place)]
    assert len([place for place in chosen if place < 18]) == 3
    assert len(chosen) == 10
    assert chosen != [place for place in range(200) if settings.exempts(8, place)]
    assert not any(settings.model_copy(update={"exempt": 0}).exempts(7, place) for place in range(200))


# decisions


@each_variant
@_40_times
@given(seed=SEEDS)
def test_who_comes_to_a_rung_again_gets_the_same_decision_and_counts_once(
    variant: tuple[str, dict[str, Any]], seed: int
) -> None:
    settings = settings_of(variant)
    once, twice = Race(settings, seed).run(settings.rule()), []
    race, rule = Race(settings, seed), settings.rule()
    for trial, rung, value in race.arrivals():
        decision = rule.report(trial, rung, value, **race.treatment[trial])
        assert rule.report(trial, rung, value + 100, **race.treatment[trial]) == decision
        twice.append((trial, rung, decision))
        if decision.action in ("stop", "pause"):
            race.leave(trial)
    assert twice == once


@each_variant
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_in_no_rung(variant: tuple[str, dict[str, Any]], value: float) -> None:
    rule = settings_of(variant).rule()
    with pytest.raises(ValueError, match=r"trial 0 reports .* at rung 1000"):
        rule.report(0, 1000, value)
    assert rule.report(1, 1000, 5.0).of == 1
    assert rule.report(0, 1000, 4.0).of == 2


@each_variant
@_40_times
@given(seed=SEEDS)
def test_an_exempt_trial_goes_on_and_its_value_counts_like_any_other(
    variant: tuple[str, dict[str, Any]], seed: int
) -> None:
    settings = settings_of(variant).model_copy(update={"exempt": 0.5})
    race, rule, plain = Race(settings, seed), settings.rule(), settings.rule()
    for trial, rung, value in race.arrivals():
        decision = rule.report(trial, rung, value, **race.treatment[trial])
        usual = plain.report(trial, rung, value, **{**race.treatment[trial], "exempt": False})
        assert (decision.value, decision.cutoff, decision.of) == (usual.value, usual.cutoff, usual.of)
        assert decision.action == ("continue" if race.treatment[trial]["exempt"] else usual.action)


@each_variant
@_40_times
@given(seed=SEEDS)
def test_a_decision_can_be_written_and_says_what_was_compared(variant: tuple[str, dict[str, Any]], seed: int) -> None:
    settings = settings_of(variant)
    race = Race(settings, seed)
    for trial, _, decision in race.run(settings.rule()):
        assert json.loads(encode(asdict(decision))) == asdict(decision)
        assert decision.cutoff is None or math.isfinite(decision.cutoff)
        if not race.treatment[trial]["exempt"] and decision.action == "continue":
            assert decision.cutoff is None or decision.value <= decision.cutoff
        if decision.action == "stop":
            assert decision.cutoff is not None
            assert decision.value > decision.cutoff


@each_variant
@_40_times
@given(seed=SEEDS)
def test_the_best_of_its_rung_so_far_is_never_stopped(variant: tuple[str, dict[str, Any]], seed: int) -> None:
    settings = settings_of(variant)
    race, best = Race(settings, seed), dict[tuple[int, int], float]()
    if not settings.compares:
        return
    for trial, rung, decision in race.run(settings.rule()):
        at = (race.treatment[trial]["bracket"], rung)
        best[at] = min(best.get(at, math.inf), decision.value)
        assert decision.action != "stop" or decision.value > best[at]


@each_variant
@_40_times
@given(seed=SEEDS)
def test_groups_are_compared_apart(variant: tuple[str, dict[str, Any]], seed: int) -> None:
    settings = settings_of(variant)
    race = Race(settings, seed, groups=("a", "b"))
    together, apart = settings.rule(), {"a": settings.rule(), "b": settings.rule()}
    for trial, rung, value in race.arrivals():
        treatment = race.treatment[trial]
        decision = together.report(trial, rung, value, **treatment)
        assert decision == apart[treatment["group"]].report(trial, rung, value, **treatment)
        if decision.action in ("stop", "pause"):
            race.leave(trial)


@each_variant
@_40_times
@given(values=st.lists(st.floats(1, 9), min_size=2, max_size=12), seed=SEEDS)
def test_a_decision_does_not_depend_on_the_order_in_which_the_others_came(
    variant: tuple[str, dict[str, Any]], values: list[float], seed: int
) -> None:
    settings = settings_of(variant)
    first, second = settings.rule(), settings.rule()
    for rung in settings.rungs(LENGTH)[:2]:
        order = [*range(len(values) - 1)]
        for trial in order:
            first.report(trial, rung, values[trial] - rung / 1e4)
        for trial in random.Random(seed).sample(order, len(order)):
            second.report(trial, rung, values[trial] - rung / 1e4)
        last = (len(values) - 1, rung, values[-1])
        assert first.report(*last) == second.report(*last)


@each_variant
@_40_times
@given(seed=SEEDS, cut=st.integers(0, 40))
def test_rebuilt_from_the_journal_it_decides_as_if_it_had_never_stopped(
    variant: tuple[str, dict[str, Any]], seed: int, cut: int
) -> None:
    spec = study_spec(variant)
    assert spec.stopping is not None
    race, rule = Race(spec.stopping, seed, groups=("a", "b")), spec.stopping.rule()
    records: list[dict[str, Any]] = []

    def write(kind: str, **fields: Any) -> None:
        records.append(json.loads(encode({"record": kind, "time": 1.0, **fields})))

    write("study", **journals.header())
    point = {"learning_rate": 1e-3}
    for trial, treatment in race.treatment.items():
        write("point", trial=trial, point=point, config=TrainConfig(**point).model_dump(), **treatment)
    for at, (trial, rung, value) in enumerate(race.arrivals()):
        if at == cut:
            again = rebuild(spec, fold(records))
            assert again is not None
            assert again.promotion(last=True) == rule.promotion(last=True)
            rule, kept = again, rule
        decision = rule.report(trial, rung, value, **race.treatment[trial])
        if at >= cut:
            assert decision == kept.report(trial, rung, value, **race.treatment[trial])
        write("decision", trial=trial, rung=rung, **asdict(decision))
        if decision.action in ("stop", "pause"):
            race.leave(trial)
        if (promotion := rule.promotion()) is not None:
            treatment = race.treatment[promotion[0]]
            promoted = rule.promote(*promotion, treatment["bracket"], treatment["group"])
            write("decision", trial=promotion[0], rung=promotion[1], **asdict(promoted))
            if at >= cut:
                assert kept.promote(*promotion, treatment["bracket"], treatment["group"]) == promoted


@each_variant
def test_only_a_rule_that_says_so_pauses_and_only_it_promotes(variant: tuple[str, dict[str, Any]]) -> None:
    settings = settings_of(variant).model_copy(update={"exempt": 0})
    rule = settings.rule()
    actions = {decision.action for seed in range(5) for _, _, decision in Race(settings, seed).run(settings.rule())}
    assert ("pause" in actions) == rule.pauses
    assert "promote" not in actions
    if not rule.pauses:
        assert rule.promotion(last=True) is None
    rule.report(0, 1000, 5.0, exempt=True)
    with pytest.raises(ValueError, match="trial 0 is not paused at rung 1000"):
        rule.promote(0, 1000)


# a whole study: two drivers, rungs, finalists, leaderboard, report


@pytest.fixture(scope="module", params=RULES)
def study(request: pytest.FixtureRequest) -> Study:
    return simulated.study(scheduler={request.param: {"first_rung": 1000}}, trials=90, dies=120.0)


def test_a_study_tells_what_its_rungs_did(study: Study) -> None:
    rows = survival(study)
    assert sum(len(row.left["stopped"]) for row in rows) >= 5, "a rule that stops nobody in 90 trials is none"
    assert sum(len(numbers) for row in rows for numbers in row.left.values()) == len(study.searched)
    assert all(one.continued == other.entered for one, other in itertools.pairwise(rows))
    exempt = [trial for trial in study.searched if trial.exempt]
    assert exempt
    assert all(trial.status in ("completed", "diverged") for trial in exempt)
    stopped = [trial for trial in study.searched if trial.status == "pruned"]
    assert all((trial.rung or 0) >= 1000 for trial in stopped)
    assert {row.rung for row in agreement(study)} == {*study.header.rungs}
    assert max(row.n for row in agreement(study)) >= 2


def test_leaderboard_and_report_are_written(study: Study) -> None:
    text = table.markdown(study)
    assert "pruned at" in text
    assert "how well rungs predicted the final order" in text
    assert "Where each trial stood at a rung" in page.page(study, Samples([], ""))
