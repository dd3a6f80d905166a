"""The shape of a GPT and the parameters of its losses, as plain data.

Imports no torch, so that a spec can be checked in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Mlp = Literal["gelu", "swiglu", "relu2"]
Norm = Literal["layernorm", "rmsnorm"]
Position = Literal["learned", "rope"]


@dataclass(frozen=True)
class GPTConfig:
    """nanoGPT's names and, by default, nanoGPT's architecture.

    vocab_size counts the rows of the embedding and the head; it may exceed the tokenizer's classes
    (50,304 rows for GPT-2's 50,257 classes: multiples of 64 are faster).
    """

    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True  # in every Linear and LayerNorm, as in GPT-2
    mlp: Mlp = "gelu"
    norm: Norm = "layernorm"
    position: Position = "learned"
    tied_head: bool = True  # the head shares wte's weight
    zero_init: bool = False  # residual projections start at zero: every block starts as the identity


# loss -> its parameters with their defaults.
# A parameter is named <loss>_<symbol>, so that no two losses share one.
LOSSES: dict[str, dict[str, float]] = {
    "cross_entropy": {},
    "squentropy": {"squentropy_lambda": 1.0},  # the paper's 1; searched in [1e-3, 1]
    "mse": {},  # rescaled_mse with k = M = 1
    "rescaled_mse": {"rescaled_mse_k": 15.0, "rescaled_mse_m": 30.0},  # Hui & Belkin 2021, ImageNet's values
    "brier": {},
    "squentropy_coded": {"squentropy_coded_w": 65.0},  # the squentropy project's own code: weight w on the true class
}

# loss -> its read-outs, the default first
READOUTS: dict[str, tuple[str, ...]] = {
    "cross_entropy": ("softmax",),
    "squentropy": ("inverse", "softmax"),
    "mse": ("inverse", "softmax"),
    "rescaled_mse": ("inverse", "softmax"),
    "brier": ("softmax",),
    "squentropy_coded": ("inverse", "softmax"),
}
