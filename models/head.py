"""The training loss of a linear head: by its definition for a small head, without holding all logits for a large one.

The N x V logits of a large head would need more memory than everything else. A softmax needs every logit of a row, but
not all rows at once: rows are processed in chunks, and the gradient with respect to the logits is computed during the
forward pass, while the chunk is in memory; in closed form if the loss declares one, else by autograd. A sum of squares
needs no logits at all: sum_j f_j^2 = h^T (W^T W) h (Vincent et al. 2015, arXiv 1412.7091).

Rows of the head from n_classes on are padding: the loss ignores them, and their gradient is zero.

Why not torch's F.linear_cross_entropy (2.13): its chunks of 8 to 16 rows are slower on a CPU than dense logits
(tests/benchmarks/bench_loss.py), torch 2.11 lacks it, and it computes no other loss.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from models.loss import Loss, Parameters, Terms, fill_parameters

# Logits in memory at a time. Every chunk also pays one pass over the (V, d) gradient, so it should be many
# rows: 333 at V = 50,304 and 64 MiB on a CPU. GPUs are fast enough for that pass to matter more: 256 MiB.
CHUNK_LOGITS_CPU = 2**24
CHUNK_LOGITS_GPU = 2**26

# logits (n, C) in fp32 or wider, targets (n,) -> values (n,), their gradient by the logits (n, C)
WithGradient = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def wide(x: Tensor) -> Tensor:
    """x in fp32; a wider dtype is kept (tests compare in fp64)."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def per_token_loss(loss: Loss, parameters: Parameters, logits: Tensor, targets: Tensor) -> Tensor:
    """The loss of each token by its definition. logits (N, C), targets (N,) int64 -> (N,), in fp32 or wider.

    ValueError for a parameter that the loss does not have, and for one outside its range.
    """
    logits, p = wide(logits), fill_parameters(loss, parameters)
    if loss.per_token is not None:
        return loss.per_token(p, logits, targets)
    t = _terms(loss, p, logits.shape[-1])
    total = t.ce * F.cross_entropy(logits, targets, reduction="none") if t.ce else logits.new_zeros(len(logits))
    if t.others or t.target:
        f_y = logits.gather(-1, targets[:, None]).squeeze(-1)
        total = total + _squares(t, logits.square().sum(-1), f_y)
    return total


def training_loss(
    loss: Loss, parameters: Parameters, hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int
) -> Tensor:
    """The mean of per_token_loss over the logits hidden @ weight[:n_classes].T, a large head's logits in chunks.

    hidden (N, d), weight (V, d), targets (N,) int64 below n_classes <= V -> scalar, in fp32 or wider.
    For a large head the matrix products of the softmax are in autocast's dtype; sums of squares are always in fp32,
    whose precision they need.
    ValueError as per_token_loss.
    """
    if n_classes <= hidden.shape[-1]:  # a small head: its logits are no larger than hidden
        with torch.autocast(hidden.device.type, enabled=False):
            logits = F.linear(wide(hidden), wide(weight[:n_classes]))
        return per_token_loss(loss, parameters, logits, targets).mean()
    p = fill_parameters(loss, parameters)
    if loss.with_gradient is not None:
        return chunked(partial(loss.with_gradient, p), hidden, weight, targets, n_classes)
    if loss.per_token is not None:
        return _chunked_by_torch(loss, p, hidden, weight, targets, n_classes)
    t = _terms(loss, p, n_classes)
    total = t.ce * chunked(_cross_entropy, hidden, weight, targets, n_classes) if t.ce else hidden.new_zeros(())
    if t.others or t.target:
        squares = _squares(t, square_sum(hidden, weight[:n_classes]), target_logits(hidden, weight, targets))
        total = total + squares.mean()
    return total


def _terms(loss: Loss, parameters: Parameters, n_classes: int) -> Terms:
    assert loss.terms is not None  # a Loss has terms or per_token
    return loss.terms(parameters, n_classes)


def _squares(t: Terms, square_sum: Tensor, f_y: Tensor) -> Tensor:
    """The family's square terms, from sum_j f_j^2 and f_y of each token, both (N,)."""
    return t.others * (square_sum - f_y.square()) + t.target * (f_y - t.M).square()


def chunked(function: WithGradient, hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int) -> Tensor:
    """Mean over rows of a function of their logits, fp32. hidden (N, d), weight (V, d), targets (N,) -> scalar.

    Matrix products are in autocast's dtype, `function` in fp32. First derivatives only.
    """
    return _Chunked.apply(function, hidden, weight, targets, n_classes, torch.is_grad_enabled())


def _chunked_by_torch(
    loss: Loss, parameters: Parameters, hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int
) -> Tensor:
    """`chunked` for a loss that declares no gradient: torch differentiates it on each chunk.

    torch.compile cannot trace a differentiation inside of a forward pass, so that it leaves this out.
    """
    # not as a decorator: it imports torch._dynamo, 1.4 s in every process that only scores or samples
    untraced = torch.compiler.disable(_differentiate_chunks)
    total: Tensor = untraced(loss, parameters, hidden, weight, targets, n_classes)
    return total


def _differentiate_chunks(
    loss: Loss, parameters: Parameters, hidden: Tensor, weight: Tensor, targets: Tensor, n_classes: int
) -> Tensor:
    assert loss.per_token is not None
    per_token = loss.per_token

    def function(logits: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            logits = logits.detach().requires_grad_()
            values = per_token(parameters, logits, y)
            (gradient,) = torch.autograd.grad(values.sum(), logits)
        return values.detach(), gradient

    return chunked(function, hidden, weight, targets, n_classes)


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
        ctx: Any,
        function: WithGradient,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        n_classes: int,
        with_gradient: bool,
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
                values, df = function(wide(h[part] @ W.T), targets[part])  # (n,), (n, C)
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


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy of each row (n,) and its gradient by the logits (n, C), for logits (n, C), targets (n,)."""
    y = targets[:, None]
    p = logits.softmax(-1)
    p_y = p.gather(1, y)  # (n, 1)
    # lse = max f - log max p: a second exponential of every logit would cost as much as the products do
    log_p_y = logits.gather(1, y) - logits.amax(-1, keepdim=True) + p.amax(-1, keepdim=True).log()
    return -log_p_y.squeeze(1), p.scatter_(1, y, p_y - 1)
