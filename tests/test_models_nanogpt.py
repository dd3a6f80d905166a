"""nanoGPT's checkpoint format, both ways, against a second writing of that network as plain functions."""

from __future__ import annotations

import gzip
import math
import os
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from models.config import GPTConfig
from models.gpt import GPT
from models.nanogpt import load_nanogpt, save_nanogpt

ARGS: dict[str, Any] = {
    "n_layer": 2,
    "n_head": 3,
    "n_embd": 24,
    "block_size": 16,
    "bias": True,
    "vocab_size": 23,
    "dropout": 0.1,
}


def weights(args: dict[str, Any]) -> dict[str, Tensor]:
    """A state_dict with a nanoGPT's names and shapes, its values far from any initialisation."""
    D, generator = args["n_embd"], torch.Generator().manual_seed(0)
    shapes: dict[str, tuple[int, ...]] = {
        "transformer.wte.weight": (args["vocab_size"], D),
        "transformer.wpe.weight": (args["block_size"], D),
    }
    for i in range(args["n_layer"]):
        block = f"transformer.h.{i}."
        for name, shape in (
            ("ln_1", (D,)),
            ("attn.c_attn", (3 * D, D)),
            ("attn.c_proj", (D, D)),
            ("ln_2", (D,)),
            ("mlp.c_fc", (4 * D, D)),
            ("mlp.c_proj", (D, 4 * D)),
        ):
            shapes[block + name + ".weight"] = shape
            if args["bias"]:
                shapes[block + name + ".bias"] = shape[:1]
    shapes["transformer.ln_f.weight"] = (D,)
    if args["bias"]:
        shapes["transformer.ln_f.bias"] = (D,)
    state = {name: 0.3 * torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    state["lm_head.weight"] = state["transformer.wte.weight"]
    return state


def reference_logits(state: dict[str, Tensor], args: dict[str, Any], idx: Tensor) -> Tensor:
    """GPT-2 from its description, with an explicit mask and softmax. idx (B, T) -> (B, T, vocab_size)"""

    def linear(x: Tensor, name: str) -> Tensor:
        y = x @ state[name + ".weight"].T
        return y + state[name + ".bias"] if args["bias"] else y

    def layer_norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(-1, keepdim=True)
        y = centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt() * state[name + ".weight"]
        return y + state[name + ".bias"] if args["bias"] else y

    T = idx.shape[1]
    hs = args["n_embd"] // args["n_head"]
    future = torch.ones(T, T, dtype=torch.bool).triu(1)
    x = state["transformer.wte.weight"][idx] + state["transformer.wpe.weight"][:T]
    for i in range(args["n_layer"]):
        block = f"transformer.h.{i}."
        qkv = linear(layer_norm(x, block + "ln_1"), block + "attn.c_attn")
        heads = []
        for h in range(args["n_head"]):
            q, k, v = (qkv[..., (part * args["n_head"] + h) * hs :][..., :hs] for part in range(3))
            scores = (q @ k.transpose(1, 2) / math.sqrt(hs)).masked_fill(future, -math.inf)
            heads.append(scores.softmax(-1) @ v)
        x = x + linear(torch.cat(heads, dim=-1), block + "attn.c_proj")
        inner = linear(layer_norm(x, block + "ln_2"), block + "mlp.c_fc")
        x = x + linear(0.5 * inner * (1 + torch.erf(inner / math.sqrt(2))), block + "mlp.c_proj")
    return layer_norm(x, "transformer.ln_f") @ state["lm_head.weight"].T


def checkpoint(args: dict[str, Any], state: dict[str, Tensor]) -> dict[str, Any]:
    """What nanoGPT's train.py saves."""
    parameters = [torch.nn.Parameter(tensor) for name, tensor in state.items() if name != "lm_head.weight"]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.99))
    for parameter in parameters:
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return {
        "model": state,
        "optimizer": optimizer.state_dict(),
        "model_args": args,
        "iter_num": 2000,
        "best_val_loss": torch.tensor(1.88),
        "config": {"dataset": "shakespeare_char", "dropout": 0.1, "device": "cpu", "compile": False},
    }


IDX = torch.randint(23, (2, 13), generator=torch.Generator().manual_seed(3))


def our_logits(config: GPTConfig, state: dict[str, Tensor]) -> Tensor:
    model = GPT(config, torch.Generator()).eval()
    model.load_state_dict(state)
    with torch.no_grad():
        return model.logits(model(IDX))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module.", "_orig_mod.module.", "module._orig_mod."])
def test_a_nanogpt_checkpoint_gives_the_same_logits_here(bias: bool, prefix: str, tmp_path: Path) -> None:
    args = ARGS | {"bias": bias}
    state = weights(args)
    saved = dict(state)
    if prefix:  # of torch.compile and DistributedDataParallel; and from the days before flash attention, with masks
        saved["transformer.h.0.attn.bias"] = torch.ones(1, 1, 16, 16)
        saved = {prefix + name: tensor for name, tensor in saved.items() if name != "lm_head.weight"}
    torch.save(checkpoint(args, saved), tmp_path / "ckpt.pt")
    config, loaded = load_nanogpt(tmp_path / "ckpt.pt")
    assert config == GPTConfig(**args)
    torch.testing.assert_close(our_logits(config, loaded), reference_logits(state, args, IDX), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_a_model_of_ours_becomes_a_nanogpt_checkpoint(bias: bool, tmp_path: Path) -> None:
    args = ARGS | {"bias": bias}
    model = GPT(GPTConfig(**args), torch.Generator().manual_seed(0)).eval()
    path = tmp_path / "ckpt.pt"
    save_nanogpt(path, model, iter_num=7, best_val_loss=1.9, config={"dataset": "shakespeare_char"})
    saved = torch.load(path, weights_only=True)
    assert set(saved) == {"model", "optimizer", "model_args", "iter_num", "best_val_loss", "config"}
    assert saved["model_args"] == args
    assert (saved["iter_num"], saved["best_val_loss"], saved["config"]["dataset"]) == (7, 1.9, "shakespeare_char")
    assert set(saved["model"]) == set(weights(args))
    expected = our_logits(model.config, model.state_dict())
    torch.testing.assert_close(reference_logits(saved["model"], args, IDX), expected, rtol=1e-5, atol=1e-5)
    assert [file.name for file in tmp_path.iterdir()] == ["ckpt.pt"], "no temporary file is left"


def test_nanogpts_optimizer_accepts_what_was_saved(tmp_path: Path) -> None:
    model = GPT(GPTConfig(**ARGS), torch.Generator().manual_seed(0))
    groups: list[dict[str, Any]] = [
        {"params": [p for p in model.parameters() if p.dim() >= 2], "weight_decay": 0.1},
        {"params": [p for p in model.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    trained = torch.optim.AdamW(groups, lr=2e-4)
    F.cross_entropy(model.logits(model(IDX)).flatten(0, 1), IDX.flatten()).backward()
    trained.step()
    for optimizer in (trained.state_dict(), None):
        save_nanogpt(tmp_path / "ckpt.pt", model, optimizer)
        saved = torch.load(tmp_path / "ckpt.pt", weights_only=True)["optimizer"]
        torch.optim.AdamW(groups, lr=1.0).load_state_dict(saved)
        assert [len(group["params"]) for group in saved["param_groups"]] == [10, 18]
        assert len(saved["state"]) == (0 if optimizer is None else 28)


def test_an_untied_head_survives_loading(tmp_path: Path) -> None:
    state = weights(ARGS)
    state["lm_head.weight"] = 2 * state["lm_head.weight"]
    torch.save(checkpoint(ARGS, state), tmp_path / "ckpt.pt")
    config, loaded = load_nanogpt(tmp_path / "ckpt.pt")
    assert not config.tied_head
    torch.testing.assert_close(our_logits(config, loaded), reference_logits(state, ARGS, IDX), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("option", [{"mlp": "swiglu"}, {"norm": "rmsnorm"}, {"position": "rope"}, {"tied_head": False}])
def test_what_nanogpt_cannot_hold_is_refused(option: dict[str, Any], tmp_path: Path) -> None:
    ((name, value),) = option.items()
    with pytest.raises(ValueError, match=f"nanoGPT has no {name}={value}"):
        save_nanogpt(tmp_path / "ckpt.pt", GPT(GPTConfig(**ARGS, **option), torch.Generator()))
    assert not list(tmp_path.iterdir())


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("code from the file ran",)


def test_a_checkpoint_of_before_the_arguments_bias_and_dropout_is_read(tmp_path: Path) -> None:
    args = {name: value for name, value in ARGS.items() if name not in ("bias", "dropout")}
    torch.save(checkpoint(args, weights(ARGS)), tmp_path / "ckpt.pt")
    assert load_nanogpt(tmp_path / "ckpt.pt")[0] == GPTConfig(**{**ARGS, "dropout": 0.0})


def without(name: str) -> dict[str, Tensor]:
    return {key: value for key, value in weights(ARGS).items() if key != name}


WRONG: dict[str, tuple[Any, str]] = {
    "fewer layers than said": (checkpoint(ARGS | {"n_layer": 3}, weights(ARGS)), "2 layers, its model_args says n_lay"),
    "more layers than said": (
        checkpoint(ARGS | {"n_layer": 1}, weights(ARGS)),
        "2 layers, its model_args says n_layer",
    ),
    "a billion layers": (checkpoint(ARGS | {"n_layer": 10**9}, weights(ARGS)), "the tensors of 2 layers"),
    "wider than said": (checkpoint(ARGS | {"n_embd": 48}, weights(ARGS)), "is (23, 24), its model_args wants (23, 48)"),
    "more classes than said": (checkpoint(ARGS | {"vocab_size": 20}, weights(ARGS)), "wte.weight is (23, 24)"),
    "another context than said": (checkpoint(ARGS | {"block_size": 8}, weights(ARGS)), "wpe.weight is (16, 24)"),
    "heads that do not divide": (checkpoint(ARGS | {"n_head": 5}, weights(ARGS)), "is not divisible by n_head (5)"),
    "no shape that there is": (checkpoint(ARGS | {"n_layer": -1}, weights(ARGS)), "n_layer is -1"),
    "a shape in words": (checkpoint(ARGS | {"n_layer": "two"}, weights(ARGS)), "its model_args say n_layer: two"),
    "an argument is missing": (checkpoint({"n_layer": 2}, weights(ARGS)), "its model_args say n_head: None"),
    "a tensor is missing": (checkpoint(ARGS, without("transformer.ln_f.weight")), "ln_f.weight is missing"),
    "no embedding": (checkpoint(ARGS, without("transformer.wte.weight")), "wte.weight is missing"),
    "another tensor": (checkpoint(ARGS, {**weights(ARGS), "extra": torch.ones(1)}), "extra is no tensor of a network"),
    "no tensor": ({"model_args": ARGS, "model": {**weights(ARGS), "extra": 3}}, "extra is a int, not a tensor"),
    "a state_dict alone": (weights(ARGS), "it is a state_dict alone"),
    "no model_args": ({"model": weights(ARGS)}, "it has no model_args"),
    "no model": ({"model_args": ARGS}, "it has no model"),
    "an empty dict": ({}, "it has no model_args"),
    "a tensor alone": (torch.ones(3), "it holds a Tensor"),
    "ours": ({"format": 1, "data_hash": "", "model": {}}, "it is a checkpoint of nanosweep"),
    "a network": (torch.nn.Linear(2, 2), "it holds Python objects besides tensors and plain values"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_checkpoint_that_is_not_whole_is_refused_with_what_is_wrong(what: str, tmp_path: Path) -> None:
    content, problem = WRONG[what]
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(ValueError, match=re.escape(problem)) as caught:
        load_nanogpt(tmp_path / "ckpt.pt")
    assert str(caught.value).startswith(f"{tmp_path / 'ckpt.pt'} is not a nanoGPT checkpoint: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_a_checkpoint_that_is_cut_is_refused_wherever_it_ends(legacy: bool, tmp_path: Path) -> None:
    path = tmp_path / "ckpt.pt"
    torch.save(checkpoint(ARGS, weights(ARGS)), path, _use_new_zipfile_serialization=not legacy)
    whole = path.read_bytes()
    load_nanogpt(path)
    for left in (0, 1, 3, 10, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:left])
        with pytest.raises(ValueError, match="is not a nanoGPT checkpoint: it is "):
            load_nanogpt(path)


def test_other_files_are_known_by_their_beginning(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    path = tmp_path / "ckpt.pt"
    save_file({"a": torch.ones(3)}, path)
    with pytest.raises(ValueError, match="it is a safetensors file"):
        load_nanogpt(path)
    path.write_bytes(gzip.compress(b"text"))
    with pytest.raises(ValueError, match="it is a gzip file"):
        load_nanogpt(path)
    path.write_bytes(pickle.dumps({"model": 1}, protocol=2))
    with pytest.raises(ValueError, match=r"it holds Python objects|it is cut or damaged"):
        load_nanogpt(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(ValueError, match="it is a directory"):
        load_nanogpt(path)
    path.rmdir()
    os.mkfifo(path)  # opening it would wait for a writer for ever
    with pytest.raises(ValueError, match="it is no regular file"):
        load_nanogpt(path)


@pytest.mark.parametrize("content", ["text", "empty", "other", "hostile"])
def test_another_file_is_refused_and_runs_no_code(
    content: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "ckpt.pt"
    if content in ("other", "hostile"):
        torch.save({"model": Hostile() if content == "hostile" else {}}, path)
    else:
        path.write_text("once upon a time" if content == "text" else "")
    with pytest.raises(ValueError, match="is not a nanoGPT checkpoint"):
        load_nanogpt(path)
    assert capsys.readouterr().out == ""
    with pytest.raises(FileNotFoundError):
        load_nanogpt(tmp_path / "missing.pt")
