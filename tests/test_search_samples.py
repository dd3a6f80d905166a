"""Losses side by side, of trials really trained: the table by loss after `finalize`, and a text of each. No Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from data.errors import UserError
from data.prepare import prepare
from models.losses import LOSSES as DECLARED
from models.readouts import INVERSE, log_probs
from search.cli.main import main
from search.report import samples
from search.report.samples import Rule
from search.results import finalize, table
from search.study import header
from search.study.folder import Weights, trial_folder
from search.study.ledger import Ledger
from search.study.study import read_study
from tests import journals, tiny
from trainer import checkpoint
from trainer.config import TrainConfig, replace
from trainer.sample import load

LOSSES = ("cross_entropy", "mse")
CONFIG = tiny.config(max_tokens=1280, eval_every=1280)
RULE = Rule("Once", max_new_tokens=20, temperature=0.7)


@pytest.fixture(scope="module", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NANOSWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def train(ledger: Ledger, folder: Path, number: int, config: TrainConfig, **more: Any) -> None:
    point = {"loss": config.loss, "learning_rate": config.learning_rate}
    about = {"point": point, "config": config.model_dump(), "name": f"t{number}", "group": config.loss}
    ledger.write("point", trial=number, **about, **more)
    journals.start(ledger, number)
    data = prepare(config.corpus, config.tokenizer)
    for report in tiny.run(config, data=data, out_dir=trial_folder(folder, number))[1]:
        fields = {key: getattr(report, key) for key in ("step", "tokens", "rung", "final", "metrics")}
        ledger.write("report", trial=number, **fields, checkpoint=None)
    journals.end(ledger, number, "completed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each loss at two rates, the best of each again with two fresh seeds, and finalized; brier only broke."""
    folder = tmp_path_factory.mktemp("study")
    ledger = Ledger(folder)
    data = header.describe({CONFIG.tokenizer: prepare(CONFIG.corpus, CONFIG.tokenizer)}, CONFIG)
    ledger.write("study", **journals.header("s", data=data))
    ledger.listeners.append(Weights(folder, ledger.study))
    for number in range(4):
        loss, rate = LOSSES[number % 2], (1e-2, 1e-4)[number // 2]
        train(ledger, folder, number, replace(CONFIG, loss=loss, learning_rate=rate))
    for number in range(4, 8):
        config = replace(CONFIG, loss=LOSSES[number % 2], learning_rate=1e-2, seed=number // 2)
        train(ledger, folder, number, config, of=number % 2, round=number // 2 - 1)
    config = replace(CONFIG, loss="brier").model_dump()
    ledger.write("point", trial=8, point={"loss": "brier"}, config=config, group="brier")
    journals.start(ledger, 8)
    journals.end(ledger, 8, "diverged")
    ledger.close()
    finalize.finalize(folder)
    return folder


def test_each_value_writes_one_text_with_a_fresh_seed_through_its_own_read_out(folder: Path) -> None:
    found = samples.write(folder, "loss", RULE)
    assert [one.value for one in found] == ["cross_entropy", "mse", "brier"]
    assert "fresh seed 2, run 4" in found[0].source
    assert "read through softmax" in found[0].source
    assert "fresh seed 2, run 5" in found[1].source
    assert "read through inverse" in found[1].source
    assert found[2].source == "no trial of full length (1 diverged), so nobody to write"
    assert all(one.text is not None and one.text.startswith("Once") for one in found[:2])
    assert found[1].text == load(trial_folder(folder, 5) / checkpoint.CHECKPOINT).write(
        "Once", max_new_tokens=20, temperature=0.7
    )[0]  # fmt: skip
    assert samples.write(folder, "loss", RULE) == found


def test_what_a_text_is_drawn_from_is_the_losss_own_read_out(folder: Path) -> None:
    trained = load(trial_folder(folder, 1))
    config = TrainConfig.model_validate(read_study(folder).trials[1].config)
    logits = torch.randn(3, trained.tokenizer.n_classes, generator=torch.Generator().manual_seed(0))
    own = log_probs(DECLARED[config.loss], config.loss_parameters, logits, INVERSE)
    assert torch.equal(trained.readout(logits), own)
    assert not torch.allclose(own, logits.log_softmax(-1), atol=0.1)


def test_without_a_key_the_leader_writes(folder: Path) -> None:
    (alone,) = samples.write(folder, None, RULE)
    assert alone.text == samples.write(folder, "loss", RULE)[0].text


def test_where_weights_are_gone_the_own_run_writes_and_then_a_line_says_how_to_get_them(
    folder: Path, tmp_path: Path
) -> None:
    moved = []
    for number in (5, 7, 1):
        place = trial_folder(folder, number) / checkpoint.CHECKPOINT
        moved.append((place, place.rename(tmp_path / str(number))))
        if number == 7:
            assert "the search's own seed" in samples.write(folder, "loss", RULE)[1].source
    gone = samples.write(folder, "loss", RULE)[1]
    leader = read_study(folder).trials[1]
    alone = samples.write(folder, "learning_rate", RULE)
    for place, kept in moved:
        kept.rename(place)
    assert gone.text is None
    assert f"nanosweep export {folder} --trial {leader.number} -o trial-1.yaml && nanosweep train" in gone.source
    assert alone[0].text is not None


def test_mistakes_are_one_line(folder: Path) -> None:
    with pytest.raises(UserError, match=r"--by los: .*did you mean loss"):
        samples.write(folder, "los", RULE)
    with pytest.raises(UserError, match="temperature -1"):
        samples.write(folder, "loss", Rule(temperature=-1))


def test_as_a_page_every_text_stands_as_it_is(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["samples", str(folder), "--by", "loss", "--prompt", "Once", "--max-new-tokens", "20"]
    assert main([*command, "--format", "md"]) == 0
    page = capsys.readouterr().out
    assert page.count("```text\nOnce") == 2
    assert "## brier\n\nno trial of full length" in page
    assert main(command) == 0
    assert capsys.readouterr().out.startswith("== cross_entropy: trial 0 (t0; fresh seed 2, run 4; perplexity ")
    odd = samples.markdown("s", RULE, [samples.Sample("a", "b", "x ``` y")])
    assert "````text\nx ``` y\n````" in odd


def test_the_table_by_loss_has_the_losses_own_numbers_and_the_test_split_with_intervals(folder: Path) -> None:
    study = read_study(folder)
    rows = {row["params_loss"]: row for row in json.loads(table.as_json(study, by="loss"))["groups"]}
    assert list(rows) == ["cross_entropy", "mse", "brier"]
    runs = [study.trials[number] for number in (5, 7)]
    for key in ("train_loss", "train_objective_loss", "val_objective_loss"):
        values = [run.final["metrics"][key] for run in runs if run.final is not None]
        assert rows["mse"][key] == pytest.approx(sum(values) / 2)
    assert rows["mse"]["train_objective_loss"] < 0.5 < 1 < rows["mse"]["train_loss"]
    assert rows["cross_entropy"]["train_objective_loss"] == pytest.approx(rows["cross_entropy"]["train_loss"], rel=1e-5)
    for loss in LOSSES:
        row = rows[loss]
        assert row["test"] == pytest.approx(row["test_loss"])
        assert row["test_seed_low"] < row["test"] < row["test_seed_high"]
        assert row["test_text_low"] < row["test"] < row["test_text_high"]
    assert rows["brier"]["test"] is rows["brier"]["train_loss"] is None
    text = table.render(study, by="loss", width=250)
    for head in ("train loss", "val loss", "test loss", "own train", "own val", "own test", "seeds", "from leader"):
        assert head in text.splitlines()[0]
    assert "as the loss counts, so not comparable" in text
    assert "test loss" in table.markdown(study, by="loss")
    assert table.as_csv(study, by="loss").count("\n") == 4


def test_finalize_tells_the_value_of_each(folder: Path) -> None:
    lines = finalize.render(read_study(folder)).splitlines()
    assert lines[1].startswith("cross_entropy  trial 0 ")
    assert lines[2].startswith("mse            trial 1 ")
