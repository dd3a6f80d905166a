"""A model of the user's own, as everything in this program uses a model.

The user's class has two things: `forward(idx) -> hidden`, (B, T) int64 -> (B, T, D), and `head_weight`, (V, D). Logits
are hidden @ head_weight.T: training never builds all of them for a large vocabulary (models/head.py). What a GPT of
ours has beside these follows from them here.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from models.config import GPTConfig
from models.gpt import GPT


class OwnModel(nn.Module):
    """A user's module with the interface of `models.gpt.GPT`. Its state_dict is the module's own, name by name."""

    def __init__(self, own: nn.Module, config: GPTConfig) -> None:
        super().__init__()
        self.own, self.config = own, config

    def forward(self, idx: Tensor) -> Tensor:
        """idx (B, T) int64 -> hidden (B, T, D)."""
        hidden: Tensor = self.own(idx)
        return hidden

    @property
    def head_weight(self) -> Tensor:
        """(V, D)"""
        weight: Tensor = self.own.head_weight  # type: ignore[assignment]
        return weight

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden (..., D) -> (..., V)."""
        return hidden @ self.head_weight.to(hidden.dtype).T

    def n_parameters(self, non_embedding: bool = True) -> int:
        """Parameters, each counted once. non_embedding: those of an nn.Embedding left out, unless they are the head."""
        tables = set(map(id, embeddings(self))) if non_embedding else set[int]()
        return sum(p.numel() for p in self.parameters() if id(p) not in tables)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.own.state_dict(*args, **kwargs)

    def load_state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.own.load_state_dict(*args, **kwargs)


Model = GPT | OwnModel


def embeddings(model: nn.Module) -> list[Tensor]:
    """The tables that are looked up only: weights of nn.Embedding that are not the head's weight."""
    head = getattr(model, "head_weight", None)
    return [m.weight for m in model.modules() if isinstance(m, nn.Embedding) and m.weight is not head]


def hidden_matrices(model: nn.Module) -> list[nn.Parameter]:
    """The matrices between hidden layers: 2-D parameters that are neither the head nor a table."""
    others = {id(getattr(model, "head_weight", None)), *map(id, embeddings(model))}
    return [p for p in model.parameters() if p.dim() == 2 and id(p) not in others]
