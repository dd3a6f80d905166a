"""What the pictures of losses show of a study."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from data.errors import UserError
from search.report import curves
from tests import journals

FLOOR = {"val_loss": 1.0, "val_perplexity": math.e, "val_bits_per_byte": 1.4}


@pytest.fixture
def study(tmp_path: Path):
    data = {"corpus": "stories", "tokenizer": "char", "hash": "abc123", "floor": FLOOR}
    return journals.write_study(tmp_path / "quick", data=data).study


def test_the_leader_comes_first_and_nothing_is_drawn_of_a_trial_without_a_finite_value(study) -> None:
    chart = curves.of_trials(study)
    assert chart is not None
    assert [line.label.partition(":")[0] for line in chart.lines] == ["trial 1", "trial 0", "trial 5", "trial 2"]
    assert [line.leader for line in chart.lines] == [True, False, False, False]
    assert [line.ending for line in chart.lines] == ["full", "full", "going", "pruned"]
    assert chart.lines[0].label.startswith("trial 1: perplexity 4.000 (")
    assert chart.lines[3].curve.val == ((1000, math.log(2.5)),)
    assert chart.lines[3].curve.end is None
    assert (chart.unit, chart.floor) == ("nats per token", 1.0)


def test_only_the_best_few_have_names(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    for number in range(7, 30):
        journals.complete(ledger, number, 6.0 + number)
    chart = curves.of_trials(ledger.study)
    assert chart is not None
    assert len(chart.lines) == 27
    assert [line.named for line in chart.lines] == [True] * curves.NAMED + [False] * (27 - curves.NAMED)
    assert chart.lines[2].label.startswith("trial 7:")


def test_by_a_key_each_value_has_its_best_trial_or_else_the_one_that_came_furthest(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    for number, tokens in ((7, 1000), (8, 4000)):
        journals.point(ledger, number, loss="brier")
        journals.start(ledger, number)
        journals.report(ledger, number, tokens, 3.0, rung=tokens)
        journals.end(ledger, number, "pruned", rung=tokens)
    chart = curves.by(ledger.study, "loss")
    assert chart is not None
    heads = [line.label.partition(" (")[0] for line in chart.lines]
    assert heads == [
        "squentropy: trial 1, perplexity 4.000",
        "cross_entropy: trial 0, perplexity 5.000",
        "brier: trial 8, pruned",
    ]
    with pytest.raises(UserError, match="did you mean loss"):
        curves.by(ledger.study, "los")


def test_fresh_seeds_stand_at_the_end_of_their_finalist(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    for number, (of, value) in enumerate([(0, 3.0), (0, 3.2), (1, 4.5)], 7):
        config = ledger.study.trials[of].config
        ledger.write("point", trial=number, point={}, config=config, name="again", of=of, round=1 + number % 2)
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, value)
        journals.end(ledger, number, "completed")
    chart = curves.of_leader(ledger.study)
    assert chart is not None
    (line,) = chart.lines
    assert line.label.startswith("trial 0:")
    assert sorted(line.seeds) == pytest.approx([math.log(3.0), math.log(3.2)])
    trials = curves.of_trials(ledger.study)
    assert trials is not None
    assert len(trials.lines) == 4  # the runs again are no trials of their own


def test_nats_per_token_of_several_tokenizers_do_not_stand_on_one_axis(tmp_path: Path) -> None:
    floors = {"char": {"floor": FLOOR}, "bpe:512": {"floor": {**FLOOR, "val_loss": 2.0}}}
    data = {"corpus": "stories", "tokenizer": "char", "hash": "abc123", "tokenizers": floors}
    ledger = journals.write_study(tmp_path / "quick", data=data)
    journals.complete(ledger, 7, 9.0, tokenizer="bpe:512")
    chart = curves.of_trials(ledger.study)
    assert chart is not None
    assert (chart.unit, chart.floor) == ("bits per byte", 1.4)
    assert all(not line.curve.train for line in chart.lines)
    assert chart.lines[0].curve.end == pytest.approx((journals.LENGTH, math.log(4.0) / math.log(2)))


def test_a_study_without_reports_has_no_pictures(tmp_path: Path) -> None:
    from search.study.ledger import Ledger

    ledger = Ledger(tmp_path / "new")
    ledger.write("study", **journals.header("new"))
    journals.point(ledger, 0)
    assert curves.of_trials(ledger.study) is None
    assert curves.by(ledger.study, "loss") is None
    assert curves.of_leader(ledger.study) is None
