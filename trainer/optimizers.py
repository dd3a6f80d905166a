"""The optimizers, each declared once: its name and how it is built over a model's parameters. Imports no torch.

To add one: write its `build` here and put it into `OPTIMIZERS`. Which keys of the config it uses is declared with the
keys (`used_by` in trainer/config.py); learning_rate, weight_decay and grad_clip apply to all. The config's check, the
search and the JSON Schema are derived from these declarations. An optimizer that stays outside this program is named
`optimizer: my_module:MyOptimizer`, see `trainer.optim.build`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.own_code import is_reference
from trainer.hints import hint
from trainer.keys import OWN, RuleError

if TYPE_CHECKING:
    import torch
    from torch import nn

Config = Any  # a TrainConfig, whose check of `optimizer` needs this file
Build = Callable[["nn.Module", Config], "list[torch.optim.Optimizer]"]


@dataclass(frozen=True)
class Optimizer:
    """build: torch optimizers that step together and have every trainable parameter in exactly one group, each group
    at its peak rate. `decay_groups` and `trainable` do most of it."""

    name: str
    build: Build


def trainable(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that are trained; a tied weight comes once."""
    return [p for p in model.parameters() if p.requires_grad]


def decay_groups(parameters: list[nn.Parameter], config: Config) -> list[dict[str, Any]]:
    """nanoGPT's: matrices and embeddings decay, biases and norms do not."""
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def build_adamw(model: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """AdamW with nanoGPT's decay groups."""
    return [_adamw(decay_groups(trainable(model), config), config)]


def build_sgd(model: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """SGD with momentum; its weight decay is added to the gradient."""
    import torch

    return [torch.optim.SGD(decay_groups(trainable(model), config), config.learning_rate, config.momentum)]


def build_muon(model: nn.Module, config: Config) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between hidden layers, whose update it orthogonalises; AdamW for tables, head, vectors."""
    import torch

    from models.own_model import hidden_matrices

    hidden = {id(p) for p in hidden_matrices(model)}
    parameters = trainable(model)
    muon = torch.optim.Muon(
        [p for p in parameters if id(p) in hidden],
        lr=config.muon_learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    return [muon, _adamw(decay_groups([p for p in parameters if id(p) not in hidden], config), config)]


def _adamw(groups: list[dict[str, Any]], config: Config) -> torch.optim.Optimizer:
    import torch

    fused = all(p.device.type in ("cpu", "cuda", "mps") for group in groups for p in group["params"])
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=fused or None)


OPTIMIZERS: dict[str, Optimizer] = {
    optimizer.name: optimizer
    for optimizer in (Optimizer("adamw", build_adamw), Optimizer("sgd", build_sgd), Optimizer("muon", build_muon))
}


def check_name(value: str) -> str:
    """The name of a declared optimizer, or a reference to an own one, which is not imported. Raises RuleError."""
    if value not in OPTIMIZERS and not is_reference(value):
        problem = f"no optimizer {value!r}; {hint(value, OPTIMIZERS)} (your own is written {OWN})"
        raise RuleError("optimizer", problem, "unknown")
    return value
