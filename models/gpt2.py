"""Read a Hugging Face GPT-2 directory (config.json, model.safetensors) as a GPTConfig and a state_dict of our GPT.

Only safetensors are read: a pickle may run code. Source of names and layout: transformers, modeling_gpt2.py, whose
Conv1D keeps its matrices as (in, out); torch's Linear has (out, in).
"""

from __future__ import annotations

import json
import operator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.config import GPTConfig, Mlp, misfit
from models.gpt import EPSILON, GPT
from models.torch_file import check_sizes

CONFIG, WEIGHTS = "config.json", "model.safetensors"
ACTIVATIONS: dict[str, Mlp] = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}
CONV1D = ("attn.c_attn.weight", "attn.c_proj.weight", "mlp.c_fc.weight", "mlp.c_proj.weight")
MASKS = (".attn.bias", ".attn.masked_bias")  # constants that old files carry along
# further keys of GPT-2's config.json, each with the only value that our network computes, which is also its default
USUAL: dict[str, Any] = {
    "model_type": "gpt2",
    "layer_norm_epsilon": EPSILON,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}


def load_gpt2(folder: Path) -> tuple[GPTConfig, dict[str, Tensor]]:
    """Read the shape and the weights, float32 on the CPU, for `start_from`.

    Raises ValueError where the directory holds no GPT-2 that our network can compute, OSError where it cannot be read.
    """
    from safetensors.torch import load_file

    shape, state = check_gpt2(folder), {}
    for name, tensor in load_file(folder / WEIGHTS).items():
        if not name.endswith(MASKS):
            state[_ours(name)] = tensor.float().T.contiguous() if name.endswith(CONV1D) else tensor.float()
    if shape.tied_head:  # a tied weight, which safetensors stores once
        state["lm_head.weight"] = state["transformer.wte.weight"]
    return shape, state


def check_gpt2(folder: Path) -> GPTConfig:
    """Read the shape, and of the weights only names and sizes. Raises ValueError and OSError as `load_gpt2`."""
    from safetensors import SafetensorError, safe_open

    shape, file = read_shape(folder), folder / WEIGHTS
    if not file.is_file():
        raise ValueError(f"{folder} has no {WEIGHTS} (pickled or sharded weights are not read)")
    sizes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(file, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                size = tuple(weights.get_slice(name).get_shape())
                if not name.endswith(MASKS):
                    sizes[_ours(name)] = size[::-1] if name.endswith(CONV1D) else size
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file ({error})") from None
    if shape.tied_head and "transformer.wte.weight" in sizes:
        sizes["lm_head.weight"] = sizes["transformer.wte.weight"]
    try:
        check_sizes(sizes, shape, f"its {CONFIG}")
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    return shape


def _ours(name: str) -> str:
    return name if name.startswith(("transformer.", "lm_head.")) else f"transformer.{name}"


def read_shape(folder: Path) -> GPTConfig:
    """Read the shape from a directory's config.json. Raises ValueError and OSError as `load_gpt2`."""
    file = folder / CONFIG
    if not file.is_file():
        raise ValueError(f"{folder} has no {CONFIG}: not a Hugging Face model")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        shape: dict[str, Any] = {
            name: operator.index(content[name]) for name in ("n_layer", "n_head", "n_embd", "vocab_size")
        }
        shape["block_size"] = operator.index(content["n_positions"])
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is not a GPT-2's config ({type(error).__name__}: {error})") from None
    for key, usual in {**USUAL, "n_inner": 4 * shape["n_embd"]}.items():
        value = content.get(key)
        if value is not None and value != usual:
            raise ValueError(f"{file}: {key} is {value}; only {usual} is read")
    activation = content.get("activation_function", "gelu_new")
    if activation not in ACTIVATIONS:
        raise ValueError(f"{file}: activation_function is {activation}; read are {', '.join(ACTIVATIONS)}")
    return GPTConfig(**shape, mlp=ACTIVATIONS[activation], tied_head=bool(content.get("tie_word_embeddings", True)))


@torch.no_grad()
def start_from(model: GPT, shape: GPTConfig, state: dict[str, Tensor]) -> None:
    """Copy weights of `shape` into a model, whose block_size may be smaller and whose vocab_size may be larger.

    Rows of padding keep their initial values: they are no classes of the tokenizer. Raises ValueError where the shapes
    do not fit.
    """
    problem = misfit(model.config, shape)
    if problem is not None:
        raise ValueError(problem[1])
    for name, parameter in model.named_parameters():  # a tied weight comes once
        values = state[name][: len(parameter)]
        parameter[: len(values)].copy_(values)
