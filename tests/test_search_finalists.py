"""Which trials are run again, with which seeds, and when: from the journal alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ray.tune.search import Searcher

from search.run.searcher import LedgerSearcher
from search.spec.study_spec import StudySpec
from search.strategy.finalists import candidates, fresh_seed, pending
from search.study.ledger import Ledger
from search.study.study import spent
from tests import journals
from trainer.config import TrainConfig

BASE = TrainConfig(max_tokens=8000)


def study_spec(**more: Any) -> StudySpec:
    head = {"study": "s", "base": "b", "sampler": "random", "space": {"learning_rate": {"log": [1e-4, 1e-2]}}}
    return StudySpec.model_validate({**head, "budget": {"trials": 4}, "finalists": {"top": 3, "seeds": 3}, **more})


def fresh(folder: Path, values: list[float]) -> Ledger:
    """A search that is over, its trials with these perplexities."""
    ledger = Ledger(folder)
    ledger.write("study", **journals.header())
    for number, value in enumerate(values):
        journals.complete(ledger, number, value)
    return ledger


def searcher(ledger: Ledger, spec: StudySpec) -> LedgerSearcher:
    return LedgerSearcher(ledger, spec, BASE, None, lambda c: 8000, lambda n: Path("/out") / str(n))


def end(ledger: Ledger, number: int, perplexity: float) -> None:
    journals.start(ledger, number)
    journals.report(ledger, number, 8000, perplexity)
    journals.end(ledger, number, "completed")


def test_the_best_run_again_a_round_at_a_time_with_seeds_that_all_share(tmp_path: Path) -> None:
    ledger, spec = fresh(tmp_path, [5.0, 3.0, 4.0, 3.001]), study_spec()
    asked = searcher(ledger, spec)
    first: list[Any] = [asked.suggest(str(n)) for n in range(3)]
    trials = ledger.study.trials
    assert [(trials[job["trial"]].of, trials[job["trial"]].round) for job in first] == [(1, 1), (3, 1), (2, 1)]
    assert {job["config"]["seed"] for job in first} == {fresh_seed(spec, 1)}
    assert first[0]["config"] == {**trials[1].config, "seed": fresh_seed(spec, 1)}
    assert first[0]["rungs"] == []
    assert asked.suggest("x") is None  # the round is under way
    for number, value in zip((4, 5, 6), (3.0, 3.002, 3.004), strict=True):
        end(ledger, number, value)
    second: list[Any] = [asked.suggest(str(n)) for n in range(3)]
    assert {job["config"]["seed"] for job in second} == {fresh_seed(spec, 2)} != {fresh_seed(spec, 1)}


def test_it_is_over_when_the_rounds_are(tmp_path: Path) -> None:
    ledger, spec = fresh(tmp_path, [3.0, 3.001, 3.002, 9.0]), study_spec()
    asked = searcher(ledger, spec)
    runs = 0
    while (job := asked.suggest("x")) != Searcher.FINISHED:
        assert isinstance(job, dict)
        end(ledger, job["trial"], 3.0 + runs % 2 / 100)
        runs += 1
    assert runs <= 9
    assert runs >= 6  # two rounds before anybody is left out


def test_a_finalist_that_breaks_is_in_no_further_round(tmp_path: Path) -> None:
    ledger, spec = fresh(tmp_path, [3.0, 3.001, 3.002, 9.0]), study_spec()
    asked = searcher(ledger, spec)
    for round_ in range(2):
        for _ in range(3 - round_):
            job: Any = asked.suggest("x")
            trial = ledger.study.trials[job["trial"]]
            if trial.of == 1:
                journals.start(ledger, trial.number)
                journals.end(ledger, trial.number, "diverged")
            else:
                end(ledger, trial.number, 3.0 + trial.number / 1000)
    assert [trial.round for trial in ledger.study.again(1)] == [1]


def test_finalists_wait_for_the_whole_search(tmp_path: Path) -> None:
    ledger, spec = fresh(tmp_path, [3.0, 4.0]), study_spec(budget={"trials": 3})
    asked = searcher(ledger, spec)
    job: Any = asked.suggest("a")
    assert ledger.study.trials[job["trial"]].of is None
    assert asked.suggest("b") is None


def test_a_raised_budget_gives_the_points_that_it_had_given_without_finalists(tmp_path: Path) -> None:
    spec = study_spec(budget={"trials": 6})
    plain, before = fresh(tmp_path / "plain", [3.0, 4.0]), fresh(tmp_path / "before", [3.0, 4.0])
    few = searcher(before, study_spec(budget={"trials": 2}, finalists={"top": 2, "seeds": 2}))
    while isinstance(job := few.suggest("x"), dict):
        end(before, job["trial"], 3.0)
    assert len(before.study.trials) > 2
    assert spent(before.study, spec.budget) == ""
    for ledger in (plain, before):
        asked = searcher(ledger, spec)
        for _ in range(4):
            asked.suggest("x")
    points = [[trial.point for trial in ledger.study.searched] for ledger in (plain, before)]
    assert points[0] == points[1]
    assert len(points[0]) == 6


def test_without_finalists_there_are_none(tmp_path: Path) -> None:
    ledger = fresh(tmp_path, [3.0, 4.0])
    assert pending(ledger.study, study_spec(finalists=None)) == []
    assert searcher(ledger, study_spec(finalists=None, budget={"trials": 2})).suggest("x") == Searcher.FINISHED


@pytest.mark.parametrize("top", [2, 5])
def test_candidates_are_full_length_trials_only(tmp_path: Path, top: int) -> None:
    ledger = fresh(tmp_path, [5.0, 3.0, 4.0])
    journals.point(ledger, 3)
    journals.start(ledger, 3)
    journals.report(ledger, 3, 1000, 1.5, rung=1000)
    journals.end(ledger, 3, "pruned")
    assert candidates(ledger.study, top) == [[1, 2, 0][:top]]
