"""Hugging Face's GPT-2 and ours compute the same logits, and what ours cannot compute is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import GPT2_SHAPES, GPTConfig, misfit
from models.gpt import GPT
from models.gpt2 import load_gpt2, read_shape, start_from

transformers = pytest.importorskip("transformers", reason="needs the extra compat: pip install -e '.[compat]'")
SMALL: dict[str, Any] = {"n_layer": 2, "n_head": 3, "n_embd": 24, "n_positions": 16, "vocab_size": 31}


def saved(folder: Path, **changes: Any) -> Any:
    """A GPT-2 with values far from any initialisation, saved as transformers does; in eval mode."""
    torch.manual_seed(0)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SMALL, **changes}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model.eval()


def tokens(n: int = 16, vocab_size: int = 31) -> Tensor:
    return torch.randint(vocab_size, (3, n), generator=torch.Generator().manual_seed(1))


def ours(folder: Path, **changes: Any) -> GPT:
    """Our model, begun from the folder's weights; other rows and columns are far from what they were."""
    shape, state = load_gpt2(folder)
    model = GPT(GPTConfig(**{**vars(shape), **changes}), torch.Generator().manual_seed(7))
    start_from(model, shape, state)
    return model.eval()


def logits(model: GPT, idx: Tensor) -> Tensor:
    with torch.no_grad():
        return model.logits(model(idx))


@pytest.mark.parametrize(
    "changes",
    [{}, {"activation_function": "gelu"}, {"tie_word_embeddings": False}, {"n_inner": 96, "resid_pdrop": 0.5}],
    ids=str,
)
def test_logits_are_those_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    theirs = saved(tmp_path, **changes)
    with torch.no_grad():
        expected = theirs(tokens()).logits
    assert expected.std() > 0.3  # random, but no trifles
    torch.testing.assert_close(logits(ours(tmp_path), tokens()), expected, rtol=1e-5, atol=1e-5)


def test_the_exact_gelu_would_not_do(tmp_path: Path) -> None:
    """Else the comparison above could not tell one from the other."""
    theirs = saved(tmp_path)
    shape, state = load_gpt2(tmp_path)
    model = GPT(GPTConfig(**{**vars(shape), "mlp": "gelu"}), torch.Generator()).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        assert (logits(model, tokens()) - theirs(tokens()).logits).abs().max() > 1e-4


def test_positions_are_cropped_and_rows_of_padding_do_not_matter(tmp_path: Path) -> None:
    theirs = saved(tmp_path)
    model = ours(tmp_path, block_size=8, vocab_size=64)
    assert model.transformer.wpe is not None
    assert model.transformer.wpe.weight.shape == (8, 24)
    with torch.no_grad():
        expected = theirs(tokens(8)).logits
    torch.testing.assert_close(logits(model, tokens(8))[..., :31], expected, rtol=1e-5, atol=1e-5)


def test_the_layouts_of_other_writers_are_read(tmp_path: Path) -> None:
    """OpenAI's own files: without the prefix, with masks; somebody's in half precision."""
    from safetensors.torch import load_file, save_file

    theirs = saved(tmp_path)
    before = load_file(tmp_path / "model.safetensors")
    other = {name.removeprefix("transformer."): tensor for name, tensor in before.items()}
    assert other.keys() != before.keys()
    other["h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
    save_file(other, tmp_path / "model.safetensors")
    with torch.no_grad():
        expected = theirs(tokens()).logits
    torch.testing.assert_close(logits(ours(tmp_path), tokens()), expected, rtol=1e-5, atol=1e-5)
    save_file({name: tensor.half() for name, tensor in other.items()}, tmp_path / "model.safetensors")
    assert {tensor.dtype for tensor in load_gpt2(tmp_path)[1].values()} == {torch.float32}


def test_gelu_tanh_is_gpt2s_formula() -> None:
    config = GPTConfig(n_layer=1, n_head=1, n_embd=4, mlp="gelu_tanh", vocab_size=8, block_size=4)
    mlp = GPT(config, torch.Generator().manual_seed(1)).transformer.h[0].mlp
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(2)) * 100
    a = mlp.c_fc(x)
    tanh = 0.5 * a * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (a + 0.044715 * a**3)))  # Hendrycks & Gimpel 2016
    torch.testing.assert_close(mlp(x), mlp.c_proj(tanh))
    assert not torch.allclose(mlp(x), mlp.c_proj(F.gelu(a)), atol=1e-5)


def test_the_hubs_shapes_are_transformers_defaults() -> None:
    theirs = transformers.GPT2Config()
    assert GPT2_SHAPES["gpt2"] == GPTConfig(
        block_size=theirs.n_positions,
        vocab_size=theirs.vocab_size,
        n_layer=theirs.n_layer,
        n_head=theirs.n_head,
        n_embd=theirs.n_embd,
        mlp="gelu_tanh",
    )
    assert theirs.activation_function == "gelu_new"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, "n_layer is 3, the weights need n_layer: 2"),
        ({"block_size": 17}, "block_size is 17, the weights have positions for at most 16"),
        ({"vocab_size": 30}, "vocab_size is 30, the weights need at least 31"),
        ({"bias": False}, "bias is false, the weights need bias: true"),
        ({"mlp": "gelu"}, "mlp is gelu, the weights need mlp: gelu_tanh"),
        ({"position": "rope"}, "position is rope, the weights need position: learned"),
    ],
)
def test_what_does_not_agree_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    saved(tmp_path)
    with pytest.raises(ValueError, match=f"^{message}$"):
        ours(tmp_path, **changes)
    shape = read_shape(tmp_path)
    assert misfit(shape, shape) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llama"}, "model_type is llama; only gpt2"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True; only False"),
        ({"layer_norm_epsilon": 1e-6}, "layer_norm_epsilon is 1e-06; only 1e-05"),
        ({"n_inner": 48}, "n_inner is 48; only 96"),
        ({"activation_function": "relu"}, "activation_function is relu; read are gelu_new"),
        ({"n_layer": "2"}, "not a GPT-2's config"),
        ({"n_layer": 3}, "it has the tensors of 2 layers, its config.json says n_layer: 3"),
        ({"n_layer": 1}, "it has the tensors of 2 layers, its config.json says n_layer: 1"),
        ({"n_positions": 8}, r"wpe.weight is \(16, 24\), its config.json wants \(8, 24\)"),
    ],
)
def test_another_network_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    saved(tmp_path)
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    with pytest.raises(ValueError, match=message):
        load_gpt2(tmp_path)


def test_only_whole_safetensors_are_read(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json"):
        load_gpt2(tmp_path)
    saved(tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load_gpt2(tmp_path)
    weights.rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        load_gpt2(tmp_path)
