"""An objective is one entry of the registry: a third one, of which more is better, goes through everything."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from search.cli.main import main
from search.report import curves, training_charts
from search.results import export, finalize, leaderboard, standing, survival, table
from search.spec.objective import OBJECTIVES, Objective
from search.spec.schema import schema
from search.spec.study_spec import StudySpec
from search.strategy import finalists
from search.study.folder import Weights
from search.study.ledger import Ledger
from search.study.scores import best
from search.study.study import Study
from tests import journals
from tests.specs import sampler_of
from trainer import provenance

ACCURACY = Objective(
    "val_accuracy",
    unit="accuracy",
    scale_name="accuracy",
    scale_unit="accuracy",
    curve="val_loss",
    curve_unit="nats per token",
    beside="val_perplexity",
    direction="maximize",
)


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES, ACCURACY.name, ACCURACY)


def accuracy(perplexity: float) -> float:
    """Against the order of perplexity, so that a comparison by the wrong number shows."""
    return perplexity / 10


def trial(ledger: Ledger, number: int, perplexity: float, **point: Any) -> None:
    journals.point(ledger, number, **point)
    run(ledger, number, perplexity)


def run(ledger: Ledger, number: int, perplexity: float) -> None:
    journals.start(ledger, number)
    for tokens, more in ((1000, 3), (4000, 1), (journals.LENGTH, 0)):
        value = accuracy(perplexity - more)
        rung = tokens if tokens < journals.LENGTH else None
        journals.report(ledger, number, tokens, perplexity + more, rung, val_accuracy=value)
    journals.end(ledger, number, "completed")


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    """Trials 0 to 3 of accuracy 0.5, 0.8, 0.6, 0.7; the last also has the least loss on the way."""
    spec = {**journals.header("toy")["spec"], "objective": "val_accuracy"}
    made = Ledger(tmp_path / "toy")
    made.write("study", **journals.header("toy", spec=spec))
    for number, perplexity in enumerate([5.0, 8.0, 6.0, 7.0]):
        trial(made, number, perplexity)
    return made


@pytest.fixture
def study(ledger: Ledger) -> Study:
    return ledger.study


def test_values_and_their_scale_are_each_others_inverse() -> None:
    for objective in OBJECTIVES.values():
        for value in (0.25, 1.0, 3.0):
            assert objective.value(objective.compared(value)) == pytest.approx(value)
            assert objective.rank(objective.rank(value)) == value
    perplexity, bits = OBJECTIVES["val_perplexity"], OBJECTIVES["val_bits_per_byte"]
    assert perplexity.difference(perplexity.compared(4.4) - perplexity.compared(4.0)) == pytest.approx(10)
    assert bits.difference(bits.compared(1.5) - bits.compared(1.25)) == pytest.approx(0.25)
    assert ACCURACY.difference(ACCURACY.compared(0.5) - ACCURACY.compared(0.8)) == pytest.approx(-0.3)
    assert ACCURACY.compared(0.8) < ACCURACY.compared(0.5)


def test_a_spec_and_its_schema_take_every_objective_and_no_other() -> None:
    spec = journals.header()["spec"]
    for name in OBJECTIVES:
        assert StudySpec.model_validate({**spec, "objective": name}).objective == name
    assert schema()["properties"]["objective"]["enum"] == [*OBJECTIVES]
    with pytest.raises(
        ValidationError, match="expected val_perplexity or val_bits_per_byte or val_accuracy, got 'luck'"
    ):
        StudySpec.model_validate({**spec, "objective": "luck"})


def test_more_is_better_where_the_objective_says_so(study: Study) -> None:
    leader = best(study)
    assert leader is not None
    assert leader.number == 1
    assert [row["trial"] for row in leaderboard.rows(study)] == [1, 3, 2, 0]
    assert leaderboard.rows(study)[0]["best_report"] == pytest.approx(0.7)
    assert finalists.candidates(study, 2) == [[1, 3]]
    rows = standing.rows(study)
    assert [row["trial"] for row in rows] == [1, 3, 2, 0]
    assert [row["value"] for row in rows] == pytest.approx([0.8, 0.7, 0.6, 0.5])
    assert [row["difference"] for row in rows[1:]] == pytest.approx([-0.1, -0.2, -0.3])


def test_the_leaderboard_shows_it_in_its_unit(study: Study) -> None:
    heads, first = table.render(study).splitlines()[:2]
    assert heads.split()[:3] == ["#", "trial", "accuracy"]
    assert re.match(r"\s*1\s+1\s+0.800", first)
    assert "perplexity" in heads
    assert "bits/byte" not in heads


def test_finalists_with_fresh_seeds_are_compared_and_tested_by_it(ledger: Ledger) -> None:
    for number, (of, perplexity) in enumerate([(1, 7.0), (3, 7.5), (1, 7.1), (3, 7.6)], 4):
        config = ledger.study.trials[of].config
        ledger.write("point", trial=number, point={}, config=config, name="again", of=of, round=1 + (number - 4) // 2)
        run(ledger, number, perplexity)
        ledger.write("test", trial=number, metrics={"test_loss": 1.0, "test_accuracy": accuracy(perplexity) - 0.1})
    leader = best(ledger.study)
    assert leader is not None
    assert leader.number == 3
    first, *others = standing.rows(ledger.study)
    assert (first["trial"], first["value"]) == (3, pytest.approx(0.755))
    assert first["seed_low"] < first["value"] < first["seed_high"]
    second = next(row for row in others if row["trial"] == 1)
    assert second["difference"] == pytest.approx(-0.05)
    assert second["difference_low"] < second["difference"] < second["difference_high"]
    assert re.search(r"trial 3 +0\.655", finalize.render(ledger.study))


def test_the_report_draws_it_and_the_export_names_it(study: Study, tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "toy")]) == 0
    page = (tmp_path / "toy" / "report.html").read_text()
    assert "best accuracy" in page
    assert "validation loss, nats per token" in page
    assert "accuracy at the rung" in page
    export.write(study, tmp_path / "best.yaml")
    source = provenance.read(tmp_path / "best.yaml")
    assert source is not None
    assert (source.trial, source.objective, source.value) == (1, "val_accuracy", pytest.approx(0.8))


def test_json_and_csv_have_its_values(tmp_path: Path, study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(tmp_path / "toy"), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["trials"]
    assert [row["objective"] for row in rows] == pytest.approx([0.8, 0.7, 0.6, 0.5])


def test_weights_of_the_best_are_kept(ledger: Ledger, tmp_path: Path) -> None:
    for number in ledger.study.trials:
        (folder := tmp_path / "toy" / "trials" / str(number)).mkdir(parents=True)
        (folder / "checkpoint.pt").write_bytes(b"")
    Weights(tmp_path / "toy", ledger.study)
    kept = {int(path.parent.name) for path in (tmp_path / "toy" / "trials").glob("*/*.pt")}
    assert kept == {1, 2, 3}


def test_the_sampler_is_told_that_lower_is_better(study: Study) -> None:
    spec = StudySpec.model_validate({**study.header.spec_as_written, "sampler": "tpe"})
    told = sampler_of(spec)._history(study)
    assert [one.value for one in told] == pytest.approx([-0.5, -0.8, -0.6, -0.7])


def test_what_a_rung_decided_is_read_in_its_unit(ledger: Ledger) -> None:
    for number in range(4):
        value = accuracy(4.0 + number)
        ledger.write("decision", trial=number, rung=1000, action="continue", value=-value, cutoff=-0.4, of=number + 1)
    (row, *_) = survival.survival(ledger.study)
    assert row.value == pytest.approx({0: 0.4, 1: 0.5, 2: 0.6, 3: 0.7})
    assert {*row.cutoff.values()} == {0.4}


@pytest.mark.parametrize("objective", ["val_perplexity", "val_bits_per_byte"])
def test_figures_and_report_draw_the_same_curves(tmp_path: Path, objective: str) -> None:
    spec = {**journals.header()["spec"], "objective": objective}
    floor = {"val_loss": 1.0, "val_perplexity": math.e, "val_bits_per_byte": 1.4}
    data = {"corpus": "stories", "tokenizer": "char", "hash": "a", "floor": floor}
    study = journals.write_study(tmp_path / "quick", spec=spec, data=data).study
    chart, drawn = curves.of_trials(study), training_charts.curves(study, 900)
    assert chart is not None
    assert drawn is not None
    assert f"validation loss, {chart.unit}" in drawn
    assert f"entropy floor {chart.floor:.4g}" in drawn
    numbers = [int(number) for number in re.findall(r'<g class="\w+" data-t="(\d+)"', drawn)]
    assert sorted(numbers) == sorted(line.trial for line in chart.lines if line.trial is not None)
    # one point of the path for each of the subset; the full split's value is none of them
    paths = re.findall(r'<g class="\w+" data-t="(\d+)">.*?d="(M[^"]*)"', drawn)
    points = {int(number): len(re.findall(r"[ML]", path)) or 1 for number, path in paths}
    assert points == {line.trial: len(line.curve.val) for line in chart.lines}
