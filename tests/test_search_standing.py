"""A study's trials compared, from the journal and the files beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from search.results import by_value, export, standing, table
from search.results.agreement import agreement
from search.results.importance import importance
from search.results.notes import caution_lines, copy_lines, optimism_lines
from search.results.standing import standings
from search.strategy.finalists import candidates, in_doubt
from search.study.folder import trial_folder
from search.study.journal import Record
from search.study.ledger import Ledger
from search.study.scores import best, copies, finalists
from search.study.study import Study, fold, read_study
from search.tracking import bundle
from tests import journals, simulated
from trainer.config import TrainConfig
from trainer.scores import Scores

N = 200


def scores(perplexity: float, seed: int) -> Scores:
    """N documents of 40 tokens, whose pooled perplexity is as given; documents differ, alike in all trials."""
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 0.3, N)
    noise = np.random.default_rng(1 + seed).normal(0, 0.01, N)
    nats = math.log(perplexity) + difficulty - difficulty.mean() + noise - noise.mean()
    tokens = np.full(N, 40)
    return Scores(nats * tokens, nats * tokens, tokens, tokens * 4, one_document=False)


def again(ledger: Ledger, of: int, round_: int, perplexity: float) -> int:
    number = max(ledger.study.trials) + 1
    config = ledger.study.trials[of].config
    ledger.write("point", trial=number, point={}, config=config, name="again", of=of, round=round_)
    journals.start(ledger, number)
    journals.report(ledger, number, journals.LENGTH, perplexity)
    journals.end(ledger, number, "completed")
    return number


def study(folder: Path, fresh: dict[int, list[float]], files: bool = True) -> Study:
    """Trials 0 to 3 with perplexities 4.0, 4.01, 4.02, 6.0 in the search; fresh: those of runs with fresh seeds."""
    ledger = Ledger(folder)
    ledger.write("study", **journals.header(folder.name))
    values = dict(enumerate([4.0, 4.01, 4.02, 6.0]))
    for number, value in values.items():
        journals.complete(ledger, number, value)
    for of, found in fresh.items():
        for round_, value in enumerate(found, 1):
            values[again(ledger, of, round_, value)] = value
    ledger.close()
    for number, value in values.items() if files else ():
        trial_folder(folder, number).mkdir(parents=True)
        scores(value, number).save(trial_folder(folder, number) / "scores.npz")
    return read_study(folder)


FRESH = {0: [4.10, 4.14, 4.12], 1: [4.02, 4.05, 4.04], 2: [4.11, 4.16, 4.12]}


def test_the_leader_is_who_is_best_over_fresh_seeds_and_not_who_was_lucky(tmp_path: Path) -> None:
    found = standing.rows(study(tmp_path, FRESH))
    assert [row["trial"] for row in found][:3] == [1, 0, 2]
    assert [row["group"] for row in found][:3] == [1, 2, 2]
    assert found[0]["value"] == pytest.approx(math.exp(np.mean(np.log(FRESH[1]))))
    assert found[0]["seed_low"] < found[0]["value"] < found[0]["seed_high"]
    assert found[0]["text_low"] < found[0]["value"] < found[0]["text_high"]
    assert found[1]["difference_low"] > 0
    assert export.choose(study(tmp_path / "b", FRESH)).number == 1


def test_the_text_is_paired_so_that_a_difference_is_known_better_than_a_value(tmp_path: Path) -> None:
    found = {row["trial"]: row for row in standing.rows(study(tmp_path, {}))}
    width = found[1]["text_high"] / found[1]["text_low"] - 1
    assert found[1]["difference_high"] - found[1]["difference_low"] < 100 * width / 5


def test_one_seed_each_makes_no_groups_and_says_why(tmp_path: Path) -> None:
    one = study(tmp_path, {})
    assert {row["group"] for row in standing.rows(one)} == {None}
    assert "one seed each" in table.render(one)
    assert "one seed: another may place it elsewhere" in export.text(one)


def test_without_files_the_seeds_alone_decide(tmp_path: Path) -> None:
    found = standing.rows(study(tmp_path, FRESH, files=False))
    assert [row["group"] for row in found][:3] == [1, 2, 2]
    assert found[0]["text_low"] is None


def test_ties_share_a_rank_and_the_table_says_so(tmp_path: Path) -> None:
    tied = study(tmp_path, {0: [4.10, 4.00, 4.06], 1: [4.02, 4.09, 4.04]})
    ranks = [line.split()[0] for line in table.render(tied).splitlines()[1:3]]
    assert ranks == ["1", "1"]
    assert "share first place" in table.render(tied)
    assert "cannot be told apart from trial" in export.text(tied)


def test_another_machine_says_the_same_from_what_mlflow_holds(tmp_path: Path) -> None:
    here = study(tmp_path / "s", FRESH)
    path = bundle.pack(here, [0, 1, 2, 3], tmp_path)
    assert path is not None
    there = read_study(tmp_path / "s")
    there.folder = tmp_path / "cache"
    assert table.as_json(there) != table.as_json(here)
    bundle.unpack(path.read_bytes(), there.folder)
    assert table.as_json(there) == table.as_json(here)


def test_by_a_parameter_the_best_of_each_value_compare_in_the_same_way(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header())
    journals.complete(ledger, 0, 4.0, loss="cross_entropy")
    journals.complete(ledger, 1, 4.5, loss="squentropy")
    for of, values in {0: [4.0, 4.01, 4.02], 1: [4.5, 4.52, 4.51]}.items():
        for round_, value in enumerate(values, 1):
            again(ledger, of, round_, value)
    ledger.close()
    groups = json.loads(table.as_json(read_study(tmp_path), by="loss"))["groups"]
    assert [(row["params_loss"], row["group"]) for row in groups] == [("cross_entropy", 1), ("squentropy", 2)]
    assert groups[1]["difference_low"] > 0


# copies of a configuration, which journals of older releases may have


def with_copies(sizes: tuple[int, ...], rng: np.random.Generator) -> Study:
    """A study of an older release: equally good configurations, each run as often as `sizes` says, all of them
    finalists; copies have equal values, run by run, as they have equal seeds."""
    rates = [1e-3 * (1 + place) for place, size in enumerate(sizes) for _ in range(size)]
    drawn = {rate: rng.standard_normal(3) for rate in set(rates)}
    records: list[Record] = [{"record": "study", **journals.header("s")}]

    def complete(rate: float, nats: float, **about: Any) -> None:
        number = sum(record["record"] == "point" for record in records)
        config = TrainConfig(max_tokens=journals.LENGTH, learning_rate=rate).model_dump(mode="json")
        records.append(
            {"record": "point", "trial": number, "point": {"learning_rate": rate}, "config": config, **about}
        )
        report = {"step": 1, "tokens": journals.LENGTH, "rung": None, "final": True, "checkpoint": None}
        metrics = {"val_perplexity": math.exp(nats)}
        records.append({"record": "report", "trial": number, **report, "metrics": metrics})
        records.append({"record": "status", "trial": number, "status": "completed"})

    for rate in rates:
        complete(rate, 1.0)
    values: dict[int, list[float]] = {number: [] for number in range(len(rates))}
    running = list(values)
    while running:
        round_ = len(values[running[0]])
        for number in running:
            values[number].append(1 + 0.01 * float(drawn[rates[number]][round_]))
            complete(rates[number], values[number][-1], of=number, round=round_ + 1)
        running = in_doubt(values, 3)
    return fold([{"time": 0.0, **record} for record in records])


@pytest.mark.parametrize("sizes", [(2, 2), (3, 1)])
def test_equal_configurations_are_told_apart_no_more_often_where_a_journal_has_copies(sizes: tuple[int, ...]) -> None:
    """Counted as evidence of their own, copies made it 15 % (each twice) and 18 % (three of one) instead of 5 %."""
    rng = np.random.default_rng(0)
    apart = [max(row.group for row in standings(with_copies(sizes, rng))) > 1 for _ in range(400)]
    assert np.mean(apart) <= 0.07  # standard deviation 0.011


def test_a_copy_counts_nowhere_and_is_named(tmp_path: Path) -> None:
    study = with_copies((3, 1), np.random.default_rng(1))
    assert copies(study) == {1: 0, 2: 0}
    assert sorted(finalists(study)) == [0, 3]
    assert sorted(row.number for row in standings(study)) == [0, 3]
    assert sorted(map(sorted, candidates(study, 4))) == [[0, 3]]
    assert [row["trial"] for row in standing.rows(study)][2:] == [1, 2]
    assert [row["group"] for row in standing.rows(study)][2:] == [None, None]
    assert copy_lines(study) == ["copies of another trial's configuration, not counted: trial 1 (of 0), 2 (of 0)"]
    assert best(study) in (study.trials[0], study.trials[3])


def test_of_copies_the_one_with_the_most_evidence_counts(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    ledger.write("study", **journals.header("s"))
    for number in range(5):
        journals.point(ledger, number, learning_rate=2e-3)
        journals.start(ledger, number)
    assert copies(ledger.study) == dict.fromkeys((1, 2, 3, 4), 0)
    journals.report(ledger, 1, 1000, 5.0, rung=1000)
    journals.end(ledger, 1, "pruned", rung=1000)
    journals.end(ledger, 0, "failed")
    assert set(copies(ledger.study).values()) == {1}
    for number in (3, 4):
        journals.report(ledger, number, journals.LENGTH, 4.0)
        journals.end(ledger, number, "completed")
    assert set(copies(ledger.study).values()) == {3}
    again(ledger, 4, 1, 4.0)
    assert set(copies(ledger.study).values()) == {4}


def test_no_number_under_the_table_changes_when_every_trial_stands_there_twice() -> None:
    records = simulated.Simulation(trials=60).records
    searched = {r["trial"] for r in records if r["record"] == "point" and "of" not in r}
    twice = [{**r, "trial": r["trial"] + 1000} for r in records if r.get("trial") in searched]
    once, both = fold(records), fold([*records, *twice])
    assert len(both.searched) == 2 * len(once.searched)
    for say in (agreement, importance, optimism_lines, caution_lines, standings, finalists):
        assert say(both) == say(once), say.__name__
    values = (by_value.rows(study, "loss", standings(study)) for study in (once, both))
    medians, doubled = ([row["median"] for row in rows] for rows in values)
    assert medians == doubled
