"""Code of a user's own, as text that a test writes into its working directory."""

from __future__ import annotations

from pathlib import Path

import pytest

# Lion (Chen et al., arXiv 2302.06675), which also counts its steps in the group: state that is no tensor
LION = """
import torch


class Lion(torch.optim.Optimizer):
    def __init__(self, params, lr, beta1=0.9, beta2=0.99, weight_decay=0.0):
        super().__init__(params, dict(lr=lr, beta1=beta1, beta2=beta2, weight_decay=weight_decay, steps=0))

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            group["steps"] += 1
            for p in group["params"]:
                if p.grad is None:
                    continue
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                update = (group["beta1"] * m + (1 - group["beta1"]) * p.grad).sign()
                p.mul_(1 - group["lr"] * group["weight_decay"]).sub_(update, alpha=group["lr"] / group["steps"] ** 0.5)
                m.lerp_(p.grad, 1 - group["beta2"])


def not_an_optimizer(params, lr):
    return 3


NUMBER = 3
"""


def write_optimizer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with an own optimizer in a working directory. Returns the reference to it."""
    (folder / "own_lion.py").write_text(LION)
    monkeypatch.chdir(folder)
    return "own_lion:Lion"
