"""What a study opens before its first trial: whatever each of its configs begins from, wherever the space names it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.gpt import GPT
from models.gpt2 import CONV1D
from search.run.prepare import prepare
from search.spec.load import load_spec
from search.study.study import Study
from tests import specs
from tests.refusals import refusal
from trainer.config import TrainConfig

BASE = """corpus: "text:corpus.txt"
n_layer: 1
n_head: 1
n_embd: 16
block_size: 16
batch_size: 2
max_tokens: 8k
device: cpu
"""
PRETRAINED = "tokenizer: gpt2\nbias: true\nmlp: gelu_tanh\n"
UNIT = "val_bits_per_byte"  # compares tokenizers
RATE = "learning_rate: {log: [1e-3, 1e-1]}"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NANOSWEEP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "corpus.txt").write_text("the cat sat on the mat. " * 400)
    (tmp_path / "empty").mkdir()
    return tmp_path


def check(folder: Path, space: str, base: str, blamed: str | None) -> None:
    """Prepare a study; the refusal must hold `blamed`. base: lines that replace or follow those of BASE."""
    keys = {line.partition(":")[0] for line in base.splitlines()}
    kept = "".join(line for line in BASE.splitlines(keepends=True) if line.partition(":")[0] not in keys)
    loaded = load_spec(specs.write(folder, f"space: {{{space}}}\nsampler: random\nobjective: {UNIT}\n", kept + base))
    if blamed is None:
        assert prepare(*loaded, Study()).length == 8000
    else:
        assert blamed in str(refusal(lambda: prepare(*loaded, Study())))


@pytest.fixture
def weights(sample_data: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a GPT-2 of one small layer, and GPT-2's own tokens."""
    monkeypatch.setenv("NANOSWEEP_GPT2_RANKS", str(sample_data / "gpt2" / "gpt2.tiktoken"))
    shape = TrainConfig.model_validate({"n_layer": 1, "n_head": 1, "n_embd": 16, "block_size": 16, "bias": True})
    state = GPT(shape.shape(50257), torch.Generator()).state_dict()
    del state["lm_head.weight"]
    tensors = {name: (value.T if name.endswith(CONV1D) else value).contiguous() for name, value in state.items()}
    folder = place / "weights"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    config = {"n_layer": 1, "n_head": 1, "n_embd": 16, "n_positions": 16, "vocab_size": 50257}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize(
    ("space", "base", "blamed"),
    [
        (RATE, "init_from: weights\n", None),
        (RATE, "init_from: empty\n", "base.yaml:12: init_from: empty: empty has no config.json"),
        (RATE, "init_from: weights\nblock_size: 8\n", None),
        (RATE, "init_from: weights\nn_layer: 2\n", "base.yaml:11: init_from: weights: n_layer is 2"),
        ("init_from: {choice: [null, weights]}", "", None),
        (
            "init_from: {choice: [null, empty]}",
            "",
            "spec.yaml:4: space.init_from.choice[1]: empty: empty has no config.json",
        ),
        (
            "init_from: {choice: [null, weights]}, n_layer: {choice: [1, 2]}",
            "",
            "spec.yaml:4: space.init_from.choice[1]: weights: n_layer is 2",
        ),
        ("w: {choice: [{init_from: null}, {init_from: weights, block_size: 32}]}", "", "block_size is 32"),
    ],
)
def test_weights_that_a_config_cannot_begin_from_are_refused_before_anything_begins(
    place: Path, weights: Path, space: str, base: str, blamed: str | None
) -> None:
    check(place, space, PRETRAINED + base, blamed)


@pytest.mark.parametrize(
    ("space", "base", "blamed"),
    [
        (RATE, "vocab_size: 64\n", None),
        (RATE, "vocab_size: 3\n", "base.yaml:9: vocab_size"),
        ("vocab_size: {choice: [null, 64, 3]}", "", "spec.yaml:4: space.vocab_size.choice[2]: "),
        ("tokenizer: {choice: [char, 'bpe:260']}", "vocab_size: 200\n", "260 classes of tokenizer bpe:260"),
    ],
)
def test_a_vocabulary_too_small_for_a_tokenizer_is_refused_before_anything_begins(
    place: Path, space: str, base: str, blamed: str | None
) -> None:
    check(place, space, base, blamed)
