"""Build torch's optimizers from the config, step them together, and save and restore their state.

Every parameter group keeps its peak learning rate as `initial_lr`; the schedule sets one multiplier for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data import own_code
from data.errors import UserError
from trainer.config import TrainConfig
from trainer.optimizers import OPTIMIZERS, decay_groups, trainable


class Optimizers:
    """One or more torch optimizers that step together. Its state is the list of their state_dicts.

    settings: the entries of a parameter group that the config decides; None: all but the parameters.
    """

    def __init__(self, parts: list[torch.optim.Optimizer], settings: Collection[str] | None = None) -> None:
        self.parts = parts
        self._settings = settings
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
        """Moments and step counts come from `states`; learning rates, weight decay and betas from the present
        config."""
        for part, state in zip(self.parts, states, strict=True):
            groups = [
                {**saved, **{key: value for key, value in group.items() if self._decides(key, saved)}}
                for saved, group in zip(state["param_groups"], part.param_groups, strict=True)
            ]
            part.load_state_dict({"state": state["state"], "param_groups": groups})

    def _decides(self, key: str, saved: dict[str, Any]) -> bool:
        """Whether the present config, not the checkpoint, decides an entry of a group."""
        return key != "params" and (self._settings is None or key in self._settings or key not in saved)


def build(
    model: nn.Module, config: TrainConfig, *, allow_code: bool = False, code_dir: Path | None = None
) -> Optimizers:
    """The optimizer that `config` names, over all of the model's parameters.

    An own one (`module:Name`) is called as `Name(groups, lr=learning_rate, **optimizer_params)`, as torch's are: a
    subclass of torch.optim.Optimizer, or a function that returns one. Each of the groups has its `weight_decay`
    (`decay_groups`). Its step() is called without a closure. A checkpoint keeps its state_dict, which must hold
    tensors and plain values only; entries of a group that it changes itself are its state too.
    code_dir: where own modules lie, default the working directory.
    Raises UserError for an own one that is not allowed, does not exist or does not take its parameters.
    """
    make = load_own(config, allow_code, code_dir)
    if make is None:
        return Optimizers(OPTIMIZERS[config.optimizer].build(model, config))
    parameters = config.optimizer_params or {}
    try:
        part = make(decay_groups(trainable(model), config), lr=config.learning_rate, **parameters)
    except Exception as error:  # of the user's own code, or torch's for a value that it does not take
        called = ", ".join(f"{name}={value}" for name, value in {"lr": config.learning_rate, **parameters}.items())
        reason = f"{type(error).__name__}: {error}"
        problem = f"optimizer {config.optimizer}: called with {called}, it raised {reason}"
        raise UserError(problem, kind="call_failed", keys=("optimizer_params", "optimizer")) from error
    if not isinstance(part, torch.optim.Optimizer):
        raise UserError(
            f"optimizer {config.optimizer}: expected a torch.optim.Optimizer, got {type(part).__name__}; name a "
            "subclass, or a function that returns one",
            kind="no_optimizer",
            keys="optimizer",
        )
    return Optimizers([part], settings={"lr", "initial_lr", "weight_decay", *parameters})


def load_own(config: TrainConfig, allow_code: bool, code_dir: Path | None = None) -> Any | None:
    """The object behind `optimizer: module:Name`, imported if that is allowed; None for a declared optimizer.

    Raises UserError, see `build`.
    """
    if not own_code.is_reference(config.optimizer):
        return None
    make = own_code.load(config.optimizer, allow_code=allow_code, kind="optimizer", directory=code_dir)
    if not callable(make):
        problem = f"optimizer {config.optimizer} is a {type(make).__name__}; name a torch.optim.Optimizer"
        raise UserError(problem, kind="no_optimizer", keys="optimizer")
    return make
