"""Read and write nanoGPT's ckpt.pt: its checkpoints load here, and ours continue in its train.py and sample.py.

The file is torch.save of a dict: model (state_dict), model_args, optimizer (state_dict), iter_num,
best_val_loss, config (the run's settings). Source: karpathy/nanoGPT, train.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import GPTConfig
from models.gpt import GPT

MODEL_ARGS = ("n_layer", "n_head", "n_embd", "block_size", "bias", "vocab_size", "dropout")
COMPILED = "_orig_mod."  # torch.compile's prefix


def load_nanogpt(path: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Read the shape and the weights from a ckpt.pt, on the CPU, for GPT.load_state_dict.

    Only tensors and plain values are unpickled, so a stranger's file runs no code.
    Raises ValueError where the file is no such checkpoint, OSError where it cannot be read.
    """
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        args, model = checkpoint["model_args"], checkpoint["model"]
        shape = {name: args[name] for name in MODEL_ARGS if name != "dropout"}
    except OSError:
        raise
    except Exception as error:  # an unpickler fed with another format raises nearly anything
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"{path} is not a nanoGPT checkpoint ({type(error).__name__}: {first_line})") from error
    state = {name.removeprefix(COMPILED): tensor for name, tensor in model.items()}
    state = {name: tensor for name, tensor in state.items() if not name.endswith(".attn.bias")}  # old masks
    tied = torch.equal(state["lm_head.weight"], state["transformer.wte.weight"])
    return GPTConfig(**shape, dropout=args.get("dropout", 0.0), tied_head=tied), state


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
