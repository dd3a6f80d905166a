"""Read and write nanoGPT's ckpt.pt: its checkpoints load here, and ours continue in its train.py and sample.py.

The file is torch.save of a dict: model (state_dict), model_args, optimizer (state_dict), iter_num,
best_val_loss, config (the run's settings). Source: karpathy/nanoGPT, train.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models import torch_file
from models.config import GPTConfig
from models.gpt import GPT

MODEL_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
EMBEDDING, HEAD = "transformer.wte.weight", "lm_head.weight"
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old files carry along


def load_nanogpt(path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Read the shape and the weights from a ckpt.pt, on the CPU, for GPT.load_state_dict.

    Names may have the prefixes of DistributedDataParallel and torch.compile; a missing head is tied to the embedding.
    Only tensors and plain values are unpickled, so a stranger's file runs no code.
    Raises ValueError where the file is no such checkpoint, or not a whole one; OSError where it cannot be read.
    """
    try:
        checkpoint = torch_file.read(path)
        args, model = _parts(checkpoint)
        shape = _shape(args)
        state = {name: tensor for name, tensor in torch_file.plain_names(model).items() if not name.endswith(MASKS)}
        embedding = state.get(EMBEDDING, torch.empty(0))
        tied = torch.equal(state.setdefault(HEAD, embedding), embedding)
        shape = replace(shape, tied_head=tied)
        sizes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        torch_file.check_sizes(sizes, shape, "its model_args")
    except ValueError as error:
        raise ValueError(f"{path} is not a nanoGPT checkpoint: {error}") from None
    return shape, state


def _parts(checkpoint: Any) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """model_args and model of a checkpoint. Raises ValueError that says what it is instead."""
    if not isinstance(checkpoint, dict):
        raise ValueError(f"it holds a {type(checkpoint).__name__}")
    args, model = checkpoint.get("model_args"), checkpoint.get("model")
    if isinstance(args, dict) and isinstance(model, dict):
        return args, model
    if "data_hash" in checkpoint:
        raise ValueError("it is a checkpoint of nanosweep; call it checkpoint.pt")
    if checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
        form = "{'model': state_dict, 'model_args': {'n_layer': ..., 'n_head': ..., ...}}"
        raise ValueError(f"it is a state_dict alone, which does not say its n_head; save {form}")
    missing = "model_args" if not isinstance(args, dict) else "model"
    raise ValueError(f"it has no {missing} (it has {', '.join(map(str, list(checkpoint)[:8])) or 'nothing'})")


def _shape(args: Mapping[str, Any]) -> GPTConfig:
    """The shape that model_args describe. Raises ValueError."""
    values: dict[str, Any] = {"bias": True, "dropout": 0.0}  # before nanoGPT had these arguments
    values |= {name: args[name] for name in MODEL_ARGS if name in args}
    for name in MODEL_ARGS:
        if not isinstance(values.get(name), float | int if name == "dropout" else int):  # a bool is an int
            raise ValueError(f"its model_args say {name}: {values.get(name)}")
    return GPTConfig(**values)


def save_nanogpt(
    path: Path,
    model: GPT,
    optimizer: Mapping[str, Any] | None = None,
    iter_num: int = 0,
    best_val_loss: float = 1e9,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Write model as a ckpt.pt, atomically.

    optimizer: the state_dict of an AdamW over nanoGPT's two groups (matrices with decay, then the rest); without
    one a fresh AdamW's is written, so that train.py can resume all the same. best_val_loss: nats per token; the
    default is nanoGPT's own initial value. Raises ValueError for a model that nanoGPT cannot represent.
    """
    plain = GPTConfig()
    for name in ("mlp", "norm", "position", "tied_head"):
        value = getattr(model.config, name)
        if value != getattr(plain, name):
            raise ValueError(f"nanoGPT has no {name}={value}; only {name}={getattr(plain, name)} can be written for it")
    if optimizer is None:
        matrices = [p for p in model.parameters() if p.dim() >= 2]
        vectors = [p for p in model.parameters() if p.dim() < 2]
        groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups).state_dict()
    checkpoint = {
        "model": model.state_dict(),
        "optimizer": dict(optimizer),
        "model_args": {name: getattr(model.config, name) for name in MODEL_ARGS},
        "iter_num": iter_num,
        "best_val_loss": best_val_loss,
        "config": dict(config or {}),
    }
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        torch.save(checkpoint, temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
