"""The shape of a GPT, as plain data.

Imports no torch, so that a spec can be checked in milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

Mlp = Literal["gelu", "swiglu", "relu2", "gelu_tanh"]  # gelu_tanh: GPT-2's own, gelu's approximation by tanh
Norm = Literal["layernorm", "rmsnorm"]
Position = Literal["learned", "rope"]


@dataclass(frozen=True)
class GPTConfig:
    """nanoGPT's names and, by default, nanoGPT's architecture.

    vocab_size counts the rows of the embedding and the head; it may exceed the tokenizer's classes
    (50,304 rows for GPT-2's 50,257 classes: multiples of 64 are faster).
    Raises ValueError for a shape that no network has.
    """

    block_size: int = 1024
    vocab_size: int = 50304
    n_layer: int = 12
    n_head: int = 12
    n_embd: int = 768
    dropout: float = 0.0
    bias: bool = True  # in every Linear and LayerNorm, as in GPT-2 (an RMSNorm never has one)
    mlp: Mlp = "gelu"
    norm: Norm = "layernorm"
    position: Position = "learned"
    tied_head: bool = True  # the head shares wte's weight
    zero_init: bool = False  # residual projections start at zero: every block starts as the identity

    def __post_init__(self) -> None:
        for name in ("block_size", "vocab_size", "n_layer", "n_head", "n_embd"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.n_embd % self.n_head:
            raise ValueError(f"n_embd ({self.n_embd}) is not divisible by n_head ({self.n_head})")
        if self.position == "rope" and (self.n_embd // self.n_head) % 2:
            raise ValueError(
                f"position rope rotates pairs: n_embd / n_head ({self.n_embd // self.n_head}) must be even"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout is {self.dropout}; it must be in [0, 1)")
        for name, kind in (("mlp", Mlp), ("norm", Norm), ("position", Position)):
            if getattr(self, name) not in get_args(kind):
                raise ValueError(f"{name} is {getattr(self, name)!r}; allowed: {', '.join(get_args(kind))}")


# name on the Hugging Face hub -> the shape of OpenAI's weights (Radford et al. 2019)
GPT2_SHAPES: dict[str, GPTConfig] = {
    name: GPTConfig(vocab_size=50257, n_layer=n_layer, n_head=n_head, n_embd=n_embd, mlp="gelu_tanh")
    for name, n_layer, n_head, n_embd in (
        ("gpt2", 12, 12, 768),
        ("gpt2-medium", 24, 16, 1024),
        ("gpt2-large", 36, 20, 1280),
        ("gpt2-xl", 48, 25, 1600),
    )
}


def misfit(config: GPTConfig, weights: GPTConfig) -> tuple[str, str] | None:
    """Why pretrained weights of shape `weights` cannot initialise a model of shape `config`: (key, reason), or None.

    block_size may be smaller (positions are cropped) and vocab_size larger (the extra rows are padding). dropout may
    differ, as no weight depends on it.
    """
    if config.block_size > weights.block_size:
        return (
            "block_size",
            f"block_size is {config.block_size}, the weights have positions for at most {weights.block_size}",
        )
    if config.vocab_size < weights.vocab_size:
        return "vocab_size", f"vocab_size is {config.vocab_size}, the weights need at least {weights.vocab_size}"
    for name in ("n_layer", "n_head", "n_embd", "bias", "mlp", "norm", "position", "tied_head"):
        got, wanted = getattr(config, name), getattr(weights, name)
        if got != wanted:
            return name, f"{name} is {_plain(got)}, the weights need {name}: {_plain(wanted)}"
    return None


def _plain(value: int | str | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
