"""The optimizers: AdamW with nanoGPT's decay groups, SGD with momentum, Muon with AdamW beside it.

Every parameter group keeps its peak learning rate as `initial_lr`; the schedule sets one multiplier for all.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from trainer.config import TrainConfig


class Optimizers:
    """One or two torch optimizers that step together. Its state is a list of theirs."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        self.parts = parts
        for group in self._groups():
            group["initial_lr"] = group["lr"]

    def _groups(self) -> Iterable[dict[str, Any]]:
        return (group for part in self.parts for group in part.param_groups)

    def scale(self, multiplier: float) -> None:
        """Set every group's learning rate to its peak times `multiplier`."""
        for group in self._groups():
            group["lr"] = group["initial_lr"] * multiplier

    def step(self) -> None:
        for part in self.parts:
            part.step()

    def zero_grad(self) -> None:
        for part in self.parts:
            part.zero_grad(set_to_none=True)

    def state_dict(self) -> list[dict[str, Any]]:
        return [part.state_dict() for part in self.parts]

    def load_state_dict(self, states: list[dict[str, Any]]) -> None:
        """Moments and step counts come from `states`; rates, decay and betas stay those of the present config."""
        for part, state in zip(self.parts, states, strict=True):
            groups = [
                {**saved, **{key: value for key, value in group.items() if key != "params"}}
                for saved, group in zip(state["param_groups"], part.param_groups, strict=True)
            ]
            part.load_state_dict({"state": state["state"], "param_groups": groups})


def build(model: nn.Module, config: TrainConfig) -> Optimizers:
    """The optimizer that `config` names, over all of the model's parameters."""
    parameters = [p for p in model.parameters() if p.requires_grad]  # a tied weight comes once
    if config.optimizer == "sgd":
        return Optimizers([torch.optim.SGD(decay_groups(parameters, config), config.learning_rate, config.momentum)])
    if config.optimizer == "adamw":
        return Optimizers([_adamw(decay_groups(parameters, config), config)])
    # Muon orthogonalises the update of a matrix between hidden layers; tables, head and vectors are none
    hidden = {id(p) for name, p in model.named_parameters() if p.dim() == 2 and ".h." in f".{name}"}
    muon = torch.optim.Muon(
        [p for p in parameters if id(p) in hidden],
        lr=config.muon_learning_rate,
        weight_decay=config.weight_decay,
        momentum=config.momentum,
    )
    return Optimizers([muon, _adamw(decay_groups([p for p in parameters if id(p) not in hidden], config), config)])


def decay_groups(parameters: list[nn.Parameter], config: TrainConfig) -> list[dict[str, Any]]:
    """nanoGPT's: matrices and embeddings decay, biases and norms do not."""
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _adamw(groups: list[dict[str, Any]], config: TrainConfig) -> torch.optim.Optimizer:
    fused = all(p.device.type in ("cpu", "cuda", "mps") for group in groups for p in group["params"])
    betas = (config.beta1, config.beta2)
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=betas, fused=fused or None)
