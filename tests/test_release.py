"""What the release before this one wrote is read by this one: its journal, its exported config, its checkpoint."""

from __future__ import annotations

import gzip
import json
import math
import shutil
from pathlib import Path

import pytest

from search.cli.main import main
from search.study.study import read_study
from trainer import checkpoint, provenance
from trainer.__main__ import main as train
from trainer.config import load

RELEASE = Path(__file__).with_name("release")
RENAMED = {"best_on_the_way": "best_report"}
RENAMED |= {name: f"params_{name}" for name in ("learning_rate", "n_layer", "loss", "squentropy_lambda")}
# of the documents' scores, which lie in the trials' folders and are not kept here
OF_SCORES = ("text_low", "text_high", "difference_low", "difference_high")


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "trials.jsonl").write_bytes(gzip.decompress((RELEASE / "trials.jsonl.gz").read_bytes()))
    return folder


def test_its_journal_gives_the_leaderboard_that_it_gave(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["leaderboard", str(study), "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["trials"]
    before = json.loads((RELEASE / "leaderboard.json").read_text())["trials"]
    assert [row["trial"] for row in rows] == [row["trial"] for row in before]
    for row, old in zip(rows, before, strict=True):
        for key, value in old.items():
            if key not in OF_SCORES:
                assert row[RENAMED.get(key, key)] == (pytest.approx(value) if isinstance(value, float) else value), key


def test_its_study_is_exported_with_the_trial_that_led(study: Path, tmp_path: Path) -> None:
    assert main(["export", str(study), "-o", str(tmp_path / "new.yaml")]) == 0
    assert load(tmp_path / "new.yaml") == load(RELEASE / "best.yaml")
    old, new = provenance.read(RELEASE / "best.yaml"), provenance.read(tmp_path / "new.yaml")
    assert old is not None
    assert new is not None
    assert (old.study, old.trial, old.data_hash) == (new.study, new.trial, new.data_hash)


def test_its_study_knows_its_header(study: Path) -> None:
    header = read_study(study).header
    assert header.name == "mine"
    assert header.spec.budget.trials == 5
    assert header.base.n_embd == 32


def test_its_checkpoint_continues_as_it_did(tmp_path: Path) -> None:
    run = RELEASE / "run"
    assert checkpoint.load(run).state.step == 10
    out = Path(shutil.copytree(run, tmp_path / "run"))
    words = [str(run / "config.yaml"), "--resume", "--out", str(out), "--max-tokens", "1280"]
    assert train(words) == 0
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    before = json.loads((RELEASE / "continued.json").read_text())
    assert (last["step"], last["tokens"]) == (before["step"], before["tokens"])
    for key in ("val_loss", "train_loss", "train_objective_loss", "val_bits_per_byte"):
        # another CPU may round differently
        assert math.isclose(last["metrics"][key], before["metrics"][key], rel_tol=1e-5), key
