"""Runs that begin with GPT-2's weights: with transformers' loss, and refused where the weights do not fit."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from data.dataset import Dataset
from data.errors import UserError
from models.gpt import GPT
from tests import tiny
from tests.refusals import key_refusal
from trainer import checkpoint, init
from trainer.config import TrainConfig, replace
from trainer.device import Machine
from trainer.distributed import Ranks
from trainer.loop import train
from trainer.step import Stepper

transformers = pytest.importorskip("transformers", reason="needs the extra compat: pip install -e '.[compat]'")
SHAPE = {"bias": True, "mlp": "gelu_tanh", "tokenizer": "gpt2"}
STILL = {"learning_rate": 1e-30, "max_tokens": 64, "eval_every": 64}  # one step that changes no weight


def data() -> Dataset:
    """As if its few classes were GPT-2's."""
    return dataclasses.replace(tiny.stories(), tokenizer="gpt2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random GPT-2, as transformers saves it."""
    made = tmp_path_factory.mktemp("gpt2")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=16, n_positions=32, vocab_size=data().n_classes, initializer_range=0.2
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(made)
    return made


def config(folder: Path, **changes: Any) -> TrainConfig:
    return tiny.config(**{**SHAPE, "init_from": str(folder), **changes})


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_training_begins_at_the_loss_that_transformers_computes(folder: Path) -> None:
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).eval()
    machine = Machine(torch.device("cpu"))
    stepper = Stepper(config(folder), data(), machine, Ranks())
    x, y = (machine.put(rows) for rows in stepper.batches.rows(0, 4))
    torch.manual_seed(0)
    before = float(stepper.step(0, 0.0)[0])
    init.begin(stepper.model, str(folder), data().n_classes)
    with torch.no_grad():
        logits = theirs(x).logits
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten())
    assert float(stepper.step(0, 0.0)[0]) == pytest.approx(float(expected), rel=1e-5)
    assert abs(before - float(expected)) > 0.01  # of random weights


def test_a_runs_weights_notes_and_first_report_are_those_of_init_from(folder: Path, tmp_path: Path) -> None:
    settings = config(folder, vocab_size=64, **STILL)
    result, _ = tiny.run(settings, data=data(), out_dir=tmp_path)
    saved = checkpoint.load(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(folder).state_dict()
    wte = saved.model["transformer.wte.weight"]
    torch.testing.assert_close(wte[: data().n_classes], theirs["transformer.wte.weight"])
    torch.testing.assert_close(saved.model["transformer.wpe.weight"], theirs["transformer.wpe.weight"][:16])
    assert len(wte) == 64
    assert result.metrics["val_loss"] == pytest.approx(tiny.score(saved.model, settings).loss, rel=1e-6)
    notes = (tmp_path / "config.yaml").read_text()
    assert f"# initial weights: {folder}, model.safetensors sha256 {digest(folder)}\n" in notes
    assert f"\ninit_from: {folder}\n" in notes


def test_a_resumed_run_needs_the_weights_no_more_and_keeps_the_note(folder: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    shutil.copytree(folder, gone)
    length = {"max_tokens": 1280, "eval_every": 640, "schedule": "constant", "warmup_frac": 0.0}
    settings = config(gone, **{**length, "max_tokens": 640})
    tiny.run(settings, data=data(), out_dir=tmp_path / "run")
    shutil.rmtree(gone)
    tiny.run(replace(settings, max_tokens=1280), data=data(), out_dir=tmp_path / "run", resume=tmp_path / "run")
    assert digest(folder) in (tmp_path / "run" / "config.yaml").read_text()
    tiny.run(config(folder, **length), data=data(), out_dir=tmp_path / "straight")
    resumed, whole = (checkpoint.load(tmp_path / name).model for name in ("run", "straight"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, "n_layer is 3, the weights need n_layer: 2"),
        ({"block_size": 33}, "block_size is 33, the weights have positions for at most 32"),
        ({"bias": False}, "bias is false, the weights need bias: true"),
        ({"mlp": "gelu"}, "mlp is gelu, the weights need mlp: gelu_tanh"),
    ],
)
def test_a_shape_that_does_not_agree_is_one_line(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^init_from: {re.escape(str(folder))}: {message}$"):
        train(config(folder, **changes), data(), print)


@pytest.mark.parametrize(
    "changes",
    [{}, {"n_layer": 3}, {"block_size": 33}, {"bias": False}, {"vocab_size": 64}, {"init_from": "/nowhere"}],
)
def test_a_look_at_the_weights_refuses_what_training_from_them_would_refuse(
    folder: Path, changes: dict[str, Any]
) -> None:
    settings, n_classes = config(folder, **changes), data().n_classes
    shape = settings.shape(n_classes)

    def answer(call: Callable[..., object], first: object) -> str:
        try:
            call(first, settings.init_from, n_classes)
        except UserError as error:
            return str(error)
        return ""

    said = answer(init.check, shape)
    assert said == answer(init.begin, GPT(shape, torch.Generator()))
    assert bool(said) == (changes not in ({}, {"vocab_size": 64}))


@pytest.mark.parametrize("kept", [0, 7, 100, 4000])
def test_a_look_at_weights_that_are_cut_off_sees_it(folder: Path, tmp_path: Path, kept: int) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    settings = config(tmp_path)
    with pytest.raises(UserError, match="not a readable safetensors file"):
        init.check(settings.shape(data().n_classes), str(tmp_path), data().n_classes)


def test_every_class_needs_weights_of_its_own(folder: Path) -> None:
    n_classes = data().n_classes
    model = GPT(config(folder, vocab_size=64).shape(n_classes), torch.Generator())
    with pytest.raises(UserError, match=f"has {n_classes} classes, the tokenizer {n_classes + 1}$"):
        init.begin(model, str(folder), n_classes + 1)


GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024, **SHAPE}


@pytest.mark.parametrize(
    ("changes", "key", "problem"),
    [
        (
            {"tokenizer": "char"},
            "tokenizer",
            "tokenizer is char, the tokens of init_from: gpt2 are gpt2's; use tokenizer: gpt2",
        ),
        ({"zero_init": True}, "zero_init", "zero_init: true would undo init_from: gpt2; remove one of them"),
        ({"n_embd": 1024, "n_head": 16}, "n_head", "n_head is 16, the weights need n_head: 12 (init_from: gpt2)"),
        ({"block_size": 2048}, "block_size", None),
        ({"vocab_size": 50_000}, "vocab_size", None),
        ({"init_from": "gpt2-xl"}, "n_layer", None),
    ],
)
def test_a_config_that_cannot_begin_with_gpt2_is_refused_before_any_weights_are_read(
    changes: dict[str, Any], key: str, problem: str | None
) -> None:
    good = TrainConfig(init_from="gpt2", **GPT2)
    assert replace(good, vocab_size=50_304, block_size=256, dropout=0.1).init_from == "gpt2"
    error = key_refusal(lambda: replace(good, **changes))
    assert (error.kind, error.keys) == ("conflict", (key, "init_from"))
    assert problem in (error.problem, None)


@pytest.mark.parametrize("repository", ["models--openai-community--gpt2", "models--gpt2"])
def test_names_come_out_of_the_cache_without_a_network(
    folder: Path, repository: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=rf"^init_from: gpt2 is not in .*{tmp_path.name}.* cannot be downloaded .*;"):
        init.find("gpt2")
    snapshot = tmp_path / repository / "snapshots" / "abab"
    shutil.copytree(folder, snapshot)
    refs = tmp_path / repository / "refs"
    refs.mkdir()
    (refs / "main").write_text("abab")
    assert init.find("gpt2") == snapshot


def test_what_is_neither_a_directory_nor_a_name_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^init_from: gpt2-medum is no directory.* did you mean gpt2-medium\?$"):
        init.find("gpt2-medum")
