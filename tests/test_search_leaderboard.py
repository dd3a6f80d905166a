"""The leaderboard: who leads, who is not ranked, what stands under the table."""

from __future__ import annotations

import csv
import io
import json
import math
from pathlib import Path

import pytest

from data.errors import UserError
from search.leaderboard import frame, reports
from search.results import by_value, leaderboard, notes, table
from search.results.standing import standings
from search.study.ledger import Ledger
from search.study.scores import best, objective
from search.study.study import Study, read_study
from tests import journals

FLOOR = {"val_loss": 1.0, "val_perplexity": math.e, "val_bits_per_byte": 1.4}


@pytest.fixture
def study(tmp_path: Path):
    return journals.write_study(tmp_path / "quick").study


def test_full_length_trials_lead_however_low_a_pruned_one_stood(study) -> None:
    numbers = [trial.number for trial in leaderboard.order(study)]
    assert numbers == [1, 0, 5, 2, 6, 3, 4]
    assert best(study) is study.trials[1]


def test_only_full_length_trials_have_an_objective(study) -> None:
    found = {row["trial"]: row["objective"] for row in leaderboard.rows(study)}
    assert found == {1: 4.0, 0: 5.0, 2: None, 3: None, 4: None, 5: None, 6: None}


def test_a_final_report_does_not_count_before_the_trial_has_ended(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    journals.start(ledger, 6)
    journals.report(ledger, 6, journals.LENGTH, 1.5)
    assert objective(ledger.study, ledger.study.trials[6]) is None
    journals.end(ledger, 6, "early_stopped")
    assert best(ledger.study) is ledger.study.trials[6]


def test_an_objective_that_is_not_finite_is_none(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    journals.start(ledger, 6)
    journals.report(ledger, 6, journals.LENGTH - 1, 9.0)
    ledger.write("report", trial=6, step=80, tokens=8000, rung=None, final=True, metrics={"val_perplexity": math.inf})
    journals.end(ledger, 6, "completed")
    assert objective(ledger.study, ledger.study.trials[6]) is None
    assert leaderboard.order(ledger.study)[-1].number in (3, 4, 6)


def test_best_report_is_of_the_subset_alone(study) -> None:
    found = {row["trial"]: row["best_report"] for row in leaderboard.rows(study)}
    assert found[1] == 3.5
    assert found[3] is None  # nan
    assert found[2] == 2.5


def test_the_end_counts_as_on_the_way_by_its_subset(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    journals.start(ledger, 6)
    journals.report(ledger, 6, journals.LENGTH, 3.0, val_loss_subset=math.log(4.0))
    journals.end(ledger, 6, "completed")
    assert leaderboard.best_on_subset(ledger.study, ledger.study.trials[6]) == pytest.approx(
        4.0
    )  # not the full split's 3.0


def test_the_objective_may_be_bits_per_byte(tmp_path: Path) -> None:
    spec = {**journals.header("bits")["spec"], "objective": "val_bits_per_byte"}
    study = journals.write_study(tmp_path / "bits", spec=spec).study
    assert leaderboard.rows(study)[0]["objective"] == pytest.approx(2.0)
    assert table.render(study).splitlines()[0].split()[:3] == ["#", "trial", "bits/byte"]


def test_frames_have_a_row_per_trial_and_a_row_per_report(study) -> None:
    trials = frame(study)
    assert len(trials) == 7
    assert trials.trial.tolist() == [1, 0, 5, 2, 6, 3, 4]
    searched = {f"params_{name}" for name in ("learning_rate", "loss", "squentropy_lambda")}
    assert {*searched, "peak_memory_mb", "val_bits_per_byte"} <= {*trials.columns}
    measured = reports(study)
    assert len(measured) == 10
    assert measured[measured.trial == 1].val_perplexity.tolist() == pytest.approx([7.0, 3.5, 4.0])


def test_by_loss_shows_the_best_of_each_loss(study) -> None:
    rows = by_value.rows(study, "loss", standings(study))
    assert [(row["params_loss"], row["objective"], row["best_trial"], row["trials"]) for row in rows] == [
        ("squentropy", 4.0, 1, 1),
        ("cross_entropy", 5.0, 0, 6),
    ]


def test_by_an_unknown_key_names_the_nearest(study) -> None:
    with pytest.raises(UserError, match="did you mean loss"):
        by_value.rows(study, "los", [])


def test_a_study_is_found_by_folder_file_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journals.write_study(tmp_path / "runs" / "quick")
    monkeypatch.chdir(tmp_path)
    for given in ("quick", "runs/quick", tmp_path / "runs" / "quick", tmp_path / "runs" / "quick" / "trials.jsonl"):
        assert len(frame(given)) == 7
    assert len(frame("quick", tmp_path / "runs")) == 7


def test_an_unknown_study_names_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    journals.write_study(tmp_path / "quick")
    with pytest.raises(UserError, match="did you mean quick"):
        frame("quik", tmp_path)
    with pytest.raises(UserError, match="holds no study"):
        frame("quick", tmp_path / "nowhere")


def test_the_table_fits_a_narrow_terminal_without_breaking_lines(study) -> None:
    lines = table.render(study, width=80).splitlines()
    assert all(len(line) <= 80 for line in lines[:8])
    assert lines[0].split() == ["#", "trial", "perplexity", "from", "leader", "tokens", "status", "config"]
    assert lines[1].split()[:3] == ["1", "1", "4.000"]
    assert lines[8] == ""


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Trials with long configs, run again with fresh seeds, so that each difference has its interval."""
    ledger = Ledger(tmp_path_factory.mktemp("wide"))
    ledger.write("study", **journals.header())
    config = journals.TrainConfig(max_tokens=journals.LENGTH).model_dump()
    for number in range(9):
        of = number % 3 if number >= 3 else None
        name = f"lr=0.00{number + 1} squentropy squentropy_lambda=0.123 weight_decay=0.0512 n_embd=384,n_head=6"
        again = {} if of is None else {"of": of, "round": number // 3 - 1}
        ledger.write("point", trial=number, point={"learning_rate": 1e-3}, config=config, name=name, **again)
        journals.start(ledger, number)
        journals.report(ledger, number, journals.LENGTH, 5.0 + number % 3 + 0.01 * number)
        journals.end(ledger, number, "completed")
    return ledger.study


@pytest.mark.parametrize("by", [None, "loss"])
@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160])
def test_at_any_width_the_columns_that_are_shown_are_whole(wide: Study, width: int, by: str | None) -> None:
    heads, *rows = table.render(wide, by, width=width).split("\n\n")[0].splitlines()
    assert all(len(line) <= width for line in (heads, *rows))
    assert heads.split()[:2] == ["#", by or "trial"]
    assert "trial" in heads.split()
    assert rows[0].startswith("1 ")
    numbers = slice(heads.index("config") if "config" in heads else None)
    assert all("…" not in line[numbers] for line in (heads, *rows))
    if width >= 80:
        assert {"tokens", "config"} <= set(heads.split())
        assert all("lr=" in row for row in rows)


def test_a_limit_says_what_it_left_out(study) -> None:
    assert "... and 5 more" in table.render(study, limit=2)
    assert "... and 5 more" in table.markdown(study, limit=2)


def test_json_and_csv_hold_every_trial_and_only_finite_numbers(study) -> None:
    rows = json.loads(table.as_json(study))["trials"]
    assert [row["trial"] for row in rows] == [1, 0, 5, 2, 6, 3, 4]
    assert rows[5]["last"] is None  # diverged: nan
    assert rows[5]["cause"] == "the loss is nan at step 10"
    lines = list(csv.DictReader(io.StringIO(table.as_csv(study))))
    assert lines[0]["objective"] == "4.0"
    assert lines[0]["params_squentropy_lambda"] == "0.1"
    assert lines[1]["params_squentropy_lambda"] == ""


def test_markdown_cells_keep_their_columns(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    ledger.write("point", trial=7, point={}, config=ledger.study.trials[0].config, name="a|b\nc", sampler="random")
    ruled = [line for line in table.markdown(ledger.study).splitlines() if line.startswith("|")]
    assert {line.replace("\\|", "").count("|") for line in ruled} == {13}


def test_the_floor_and_the_gap_to_it_are_shown_where_it_is_known(tmp_path: Path) -> None:
    data = {**journals.header()["data"], "floor": FLOOR}
    study = journals.write_study(tmp_path / "quick", data=data).study
    text = "\n".join(notes.floor_lines(study))
    assert "perplexity 2.718, 1.400 bits/byte; the leader is 1.28 above it (1.472 × the floor)" in text
    assert "WARNING" not in text
    assert notes.floor_lines(journals.write_study(tmp_path / "other").study) == []


def test_a_trial_under_the_floor_raises_an_alarm(tmp_path: Path) -> None:
    data = {**journals.header()["data"], "floor": {**FLOOR, "val_perplexity": 4.5}}
    text = table.render(journals.write_study(tmp_path / "quick", data=data).study)
    assert "WARNING: trial 1 is under the floor" in text


def test_each_tokenizer_has_its_own_perplexity_floor(tmp_path: Path) -> None:
    other = {**FLOOR, "val_perplexity": 3.9}
    about = {"tokenizers": {"gpt2": {"floor": {**FLOOR, "val_perplexity": 1000.0}}, "char": {"floor": other}}}
    data = {**journals.header()["data"], "floor": {**FLOOR, "val_perplexity": 1000.0}, **about}
    lines = notes.floor_lines(journals.write_study(tmp_path / "quick", data=data).study)
    assert not any("WARNING" in line for line in lines)
    assert "3.900" in lines[0]
    assert "1000" in lines[0]


def test_rungs_reached_at_different_tokens_are_said(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "quick")
    assert notes.spread_lines(ledger.study) == []
    journals.start(ledger, 6)
    journals.report(ledger, 6, 1024, 5.0, rung=1000)
    assert notes.spread_lines(ledger.study) == [
        "rungs were reached at different tokens, as batch sizes differ: 1k at 1,000–1,024"
    ]


def test_causes_are_said_under_the_table(study) -> None:
    text = table.render(study)
    assert "trial 3 diverged: the loss is nan at step 10" in text
    assert "trial 4 failed: RuntimeError: boom" in text


def test_a_study_without_trials_has_a_table(tmp_path: Path) -> None:
    ledger = journals.Ledger(tmp_path / "empty")
    ledger.write("study", **journals.header("empty"))
    study = read_study(tmp_path / "empty")
    assert "no trials yet" in table.render(study)
    assert "no trials yet" in table.markdown(study)
    assert json.loads(table.as_json(study))["trials"] == []
    assert len(frame(study)) == len(reports(study)) == 0


def test_titles_have_nats_per_character_theirs_and_the_honest_ones(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "titles")
    assert not {"nats/char", "evaluate()", "coverage"} & set(table.render(ledger.study).split())
    journals.start(ledger, 6)
    numbers = {"val_nats_per_char": 1.14, "mainrun_nats_per_char": 1.1327, "mainrun_coverage": 0.9876}
    journals.report(ledger, 6, journals.LENGTH, 3.0, **numbers)
    journals.end(ledger, 6, "completed")
    head, first, *rest = table.render(ledger.study).splitlines()
    assert "nats/char  evaluate()  coverage" in head
    assert "1.1400      1.1327     98.8%" in first
    assert any("1.1400 nats/char over the whole validation text" in line and "says 1.1327" in line for line in rest)
    assert json.loads(table.as_json(ledger.study))["trials"][0]["mainrun_coverage"] == 0.9876


def test_a_long_config_is_cut_before_the_numbers_beside_it(tmp_path: Path) -> None:
    ledger = journals.write_study(tmp_path / "long")
    config = journals.TrainConfig(max_tokens=journals.LENGTH).model_dump()
    ledger.write("point", trial=7, point={"learning_rate": 1e-3}, config=config, name="many=words " * 30)
    for width in (None, 100, 200):
        shown = table.render(ledger.study, width=width)
        lines = shown.split("\n\n")[0].splitlines()
        assert max(map(len, lines)) <= (width or 200)
        assert "4.000" in lines[1]  # the leader's value is there
        assert "many=words" in shown
        assert "…" in shown
