"""The GPT: nanoGPT's architecture and state_dict names by default, with a few well-tried options.

    model = GPT(GPTConfig(n_layer=4, n_head=4, n_embd=128), torch.Generator().manual_seed(1337))
    hidden = model(idx)             # (B, T, n_embd): what models.losses takes, together with model.head_weight
    logits = model.logits(hidden)   # (B, T, vocab_size)

Sources: GPT-2 (Radford et al. 2019); karpathy/nanoGPT for names and initialisation; SwiGLU (Shazeer,
arXiv 2002.05202); ReLU^2 (So et al., arXiv 2109.08668); RMSNorm (Zhang & Sennrich, arXiv 1910.07467);
RoPE (Su et al., arXiv 2104.09864).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import GPTConfig

ROPE_BASE = 10000.0
EPSILON = 1e-5  # of both norms


class Linear(nn.Linear):
    def reset_parameters(self) -> None:
        """Do nothing: torch would draw from its global generator; `initialise` sets every weight."""


class Embedding(nn.Embedding):
    def reset_parameters(self) -> None:
        """Do nothing, as above."""


class Norm(nn.Module):
    """LayerNorm, its bias optional, or RMSNorm, which has none. (..., n_embd) -> (..., n_embd)"""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.rms = config.norm == "rmsnorm"
        self.weight = nn.Parameter(torch.empty(config.n_embd))
        self.bias = nn.Parameter(torch.empty(config.n_embd)) if config.bias and not self.rms else None

    def forward(self, x: Tensor) -> Tensor:
        if self.rms:
            return F.rms_norm(x, self.weight.shape, self.weight, EPSILON)
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, EPSILON)


class Attention(nn.Module):
    """Causal self-attention. (B, T, n_embd) -> (B, T, n_embd)"""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.n_head = config.n_head
        self.dropout = config.dropout
        self.c_attn = Linear(config.n_embd, 3 * config.n_embd, bias=config.bias)  # query, key, value side by side
        self.c_proj = Linear(config.n_embd, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        B, T, D = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, D // self.n_head).unbind(2)  # each (B, T, n_head, hs)
        if rotation is not None:
            q, k = rotate(q, rotation), rotate(k, rotation)
        y = F.scaled_dot_product_attention(
            q.transpose(1, 2),  # (B, n_head, T, hs), a view as the others: the kernel takes strides
            k.transpose(1, 2),
            v.transpose(1, 2),
            dropout_p=self.dropout if self.training else 0.0,
            is_causal=True,
        )
        y = self.c_proj(y.transpose(1, 2).reshape(B, T, D))
        return F.dropout(y, self.dropout, self.training)


class MLP(nn.Module):
    """(B, T, n_embd) -> (B, T, n_embd). SwiGLU's gate and value come out of one c_fc, the gate first."""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.kind = config.mlp
        self.dropout = config.dropout
        inner = outer = 4 * config.n_embd
        if self.kind == "swiglu":
            # three matrices instead of two: 8/3 instead of 4 keeps the parameters, multiples of 8 the speed
            inner = 8 * max(1, round(config.n_embd / 3))
            outer = 2 * inner
        self.c_fc = Linear(config.n_embd, outer, bias=config.bias)
        self.c_proj = Linear(inner, config.n_embd, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c_fc(x)
        if self.kind == "gelu":
            x = F.gelu(x)
        elif self.kind == "gelu_tanh":
            x = F.gelu(x, approximate="tanh")
        elif self.kind == "relu2":
            x = F.relu(x).square()
        else:
            gate, value = x.chunk(2, dim=-1)
            x = F.silu(gate) * value
        return F.dropout(self.c_proj(x), self.dropout, self.training)


class Block(nn.Module):
    """One pre-norm layer. (B, T, n_embd) -> (B, T, n_embd)"""

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.ln_1 = Norm(config)
        self.attn = Attention(config)
        self.ln_2 = Norm(config)
        self.mlp = MLP(config)

    def forward(self, x: Tensor, rotation: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), rotation)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """The network without its head. (B, T) int64 -> (B, T, n_embd), after ln_f"""

    rotation: Tensor | None

    def __init__(self, config: GPTConfig) -> None:
        super().__init__()
        self.block_size = config.block_size
        learned = config.position == "learned"
        self.wte = Embedding(config.vocab_size, config.n_embd)
        self.wpe = Embedding(config.block_size, config.n_embd) if learned else None
        self.drop = nn.Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.ln_f = Norm(config)
        # computed from the config, so checkpoints do not hold it
        self.register_buffer("rotation", None if learned else rotations(config), persistent=False)

    def forward(self, idx: Tensor) -> Tensor:
        if idx.shape[1] > self.block_size:
            raise ValueError(f"a sequence of {idx.shape[1]} tokens does not fit into block_size {self.block_size}")
        T = idx.shape[1]
        x = self.wte(idx)  # (B, T, n_embd)
        if self.wpe is not None:
            x = x + self.wpe.weight[:T]  # a slice: the backward pass of a lookup would be a scatter
        rotation = None if self.rotation is None else self.rotation[:, :T]
        x = self.drop(x)
        for block in self.h:
            x = block(x, rotation)
        return self.ln_f(x)


class GPT(nn.Module):
    """The network with its head, without a loss. The initial weights are drawn from `generator` (on the CPU) only.

    Dropout masks are drawn from torch's default generator, which trainer.loop seeds and saves.
    """

    def __init__(self, config: GPTConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        self.lm_head = Linear(config.n_embd, config.vocab_size, bias=False)
        if config.tied_head:
            self.lm_head.weight = self.transformer.wte.weight
        initialise(self, generator)

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) int64 -> hidden (B, T, n_embd), after ln_f. ValueError where T exceeds block_size."""
        return self.transformer(idx)

    @property
    def head_weight(self) -> Tensor:
        """(vocab_size, n_embd)"""
        return self.lm_head.weight

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., n_embd) -> (..., vocab_size), padding rows included."""
        return self.lm_head(hidden)

    def n_parameters(self, non_embedding: bool = True) -> int:
        """The number of parameters, each counted once. non_embedding, as in nanoGPT, leaves out the position table. A
        tied token table is counted, because it is also the head; an untied one is left out."""
        total = sum(p.numel() for p in self.parameters())
        if non_embedding and self.transformer.wpe is not None:
            total -= self.transformer.wpe.weight.numel()
        if non_embedding and not self.config.tied_head:
            total -= self.transformer.wte.weight.numel()
        return total


@torch.no_grad()
def initialise(model: GPT, generator: torch.Generator) -> None:
    """GPT-2's: biases 0, norms 1, matrices and tables N(0, 0.02), residual projections N(0, 0.02 / sqrt(2 n_layer))."""
    residual_std = 0.0 if model.config.zero_init else 0.02 / math.sqrt(2 * model.config.n_layer)
    for name, parameter in model.named_parameters():  # a tied weight comes once
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            std = residual_std if name.endswith("c_proj.weight") else 0.02
            parameter.normal_(0.0, std, generator=generator)


def rotations(config: GPTConfig) -> Tensor:
    """RoPE's cosines and sines, (2, block_size, 1, hs / 2): position t turns pair i by t base^(-2i / hs)."""
    hs = config.n_embd // config.n_head
    frequency = ROPE_BASE ** (-torch.arange(0, hs, 2, dtype=torch.float64) / hs)
    angle = torch.outer(torch.arange(config.block_size, dtype=torch.float64), frequency)
    return torch.stack((angle.cos(), angle.sin())).float()[:, :, None]


def rotate(x: Tensor, rotation: Tensor) -> Tensor:
    """Rotate the pairs (i, i + hs/2) of x (B, T, n_head, hs) by rotation (2, T, 1, hs/2)."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1).to(x.dtype)
