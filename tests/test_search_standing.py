"""A study's trials compared, from the journal and the files beside it."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from search.results import export, standing, table
from search.study.folder import trial_folder
from search.study.ledger import Ledger
from search.study.study import Study, read_study
from search.tracking import bundle
from tests import journals
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
