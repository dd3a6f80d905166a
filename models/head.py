"""The loss of a large linear head without its logits: N x V of them would outweigh everything else in memory.

Two tools. A softmax needs every logit of a row, but not all rows at once: rows are taken a chunk at a time, and
the gradient, known in closed form, is made on the way forward while the chunk is there. A sum of squares needs
no logit at all: sum_j f_j^2 = h^T (W^T W) h (Vincent et al. 2015, arXiv 1412.7091).

Why not torch's F.linear_cross_entropy (2.13): its chunks of 8 to 16 rows are slower on a CPU than dense logits
(tests/benchmarks/bench_loss.py), torch 2.11 lacks it, and it knows no Brier score.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

# Logits in memory at a time. Every chunk also pays one pass over the (V, d) gradient, so it should be many
# rows: 333 at V = 50,304 and 64 MiB on a CPU. GPUs are fast enough for that pass to matter more: 256 MiB.
CHUNK_LOGITS_CPU = 2**24
CHUNK_LOGITS_GPU = 2**26


def wide(x: Tensor) -> Tensor:
    """x in fp32, or as it is where it is wider (tests compare in fp64)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def chunked(loss: str, hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int) -> Tensor:
    """Mean over rows of cross_entropy or brier, fp32. hidden (N, d), weight (V, d), targets (N,) -> scalar.

    Matrix products are in autocast's dtype, the softmax in fp32. First derivatives only.
    """
    return _Chunked.apply(loss, hidden, weight, targets, n_classes, torch.is_grad_enabled())


def square_sum(hidden: Tensor, weight: Tensor) -> Tensor:
    """sum_j f_j^2 of each row of f = hidden @ weight.T, fp32. hidden (N, d), weight (C, d) -> (N,).

    N d^2 + C d^2 multiplications instead of N C d.
    """
    with torch.autocast(hidden.device.type, enabled=False):
        hidden, weight = wide(hidden), wide(weight)
        return (hidden @ (weight.T @ weight) * hidden).sum(-1)


def target_logits(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """f_y of each row, fp32. hidden (N, d), weight (V, d), targets (N,) -> (N,)."""
    return (wide(hidden) * wide(F.embedding(targets, weight))).sum(-1)


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, loss: str, hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int, with_gradient: bool
    ) -> Tensor:
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        h, W = hidden.to(dtype), weight[:n_classes].to(dtype)  # (N, d), (C, d)
        dh, dW = torch.empty_like(hidden), torch.zeros_like(weight)  # rows of padding keep their zeros
        total = torch.zeros((), dtype=wide(hidden[:0]).dtype, device=hidden.device)
        rows = max(1, (CHUNK_LOGITS_CPU if device == "cpu" else CHUNK_LOGITS_GPU) // n_classes)
        with torch.autocast(device, enabled=False):
            for start in range(0, len(h), rows):
                part = slice(start, start + rows)
                values, df = _softmax_loss(loss, wide(h[part] @ W.T), targets[part])  # (n,), (n, C)
                total += values.sum()
                if with_gradient:
                    df = df.to(dtype)
                    dh[part] = df @ W
                    if dtype == dW.dtype:
                        dW[:n_classes].addmm_(df.T, h[part])
                    else:
                        dW[:n_classes] += df.T @ h[part]
        ctx.save_for_backward(dh, dW)
        return total / len(h)

    @staticmethod
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        dh, dW = ctx.saved_tensors
        scale = scale / len(dh)
        return None, scale * dh, scale * dW, None, None, None


def _softmax_loss(loss: str, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The loss of each row (n,) and its gradient by the logits (n, C), for logits (n, C), targets (n,)."""
    y = targets[:, None]
    p = logits.softmax(-1)
    p_y = p.gather(1, y)  # (n, 1)
    if loss == "cross_entropy":
        # lse = max f - log max p: a second exponential of every logit would cost as much as the products do
        log_p_y = logits.gather(1, y) - logits.amax(-1, keepdim=True) + p.amax(-1, keepdim=True).log()
        return -log_p_y.squeeze(1), p.scatter_(1, y, p_y - 1)
    if loss == "brier":  # sum_j (p_j - [j = y])^2
        squares = p.square().sum(-1, keepdim=True)
        gradient = 2 * p * (p - squares + p_y)
        gradient.scatter_add_(1, y, -2 * p_y)
        return (squares - 2 * p_y + 1).squeeze(1), gradient
    raise ValueError(f"no chunked form of loss {loss!r}")
