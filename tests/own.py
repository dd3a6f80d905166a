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

# nanoGPT's model.py, changed: weights from torch's default generator, learned gates instead of attention, a tied head
MODEL = """
import torch
from torch import nn


class Mixer(nn.Module):
    def __init__(self, config, reach):
        super().__init__()
        self.reach = reach
        self.norm = nn.LayerNorm(config.n_embd)
        self.mix = nn.Linear(reach * config.n_embd, config.n_embd)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x):
        B, T, D = x.shape
        y = self.norm(x)
        past = [nn.functional.pad(y, (0, 0, k, 0))[:, :T] for k in range(self.reach)]
        return x + self.dropout(torch.relu(self.mix(torch.cat(past, -1))))


class MyGPT(nn.Module):
    def __init__(self, config, generator, reach=2, flat=False):
        super().__init__()
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.block_size, config.n_embd)
        self.layers = nn.ModuleList(Mixer(config, reach) for _ in range(0 if flat else config.n_layer))
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.lm_head.weight = self.wte.weight
        nn.init.normal_(self.wte.weight, std=0.02, generator=generator)

    def forward(self, idx):
        x = self.wte(idx) + self.wpe(torch.arange(idx.shape[1], device=idx.device))
        for layer in self.layers:
            x = layer(x)
        return x

    @property
    def head_weight(self):
        return self.lm_head.weight
"""
# (Lin et al. 2017, arXiv 1708.02002)
LOSS = """
from models.loss import Loss, Parameter
from models.readouts import SOFTMAX


def focal(parameters, logits, targets):
    log_p = logits.log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
    return -((1 - log_p.exp()) ** parameters["gamma"]) * log_p


FOCAL = Loss(
    name="focal",
    meaning="-(1 - p_y)^gamma log p_y",
    parameters={"gamma": Parameter(2.0, "0 is cross-entropy", ge=0)},
    readouts=(SOFTMAX,),
    per_token=focal,
    proper=False,
)
"""
CORPUS = """
def letters():
    for number in range(300):
        yield f"Dear {number % 7}, it is {number % 5} o'clock and all is {'well' if number % 2 else 'quiet'}. " * 2
"""


def write_optimizer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module with an own optimizer in a working directory. Returns the reference to it."""
    (folder / "own_lion.py").write_text(LION)
    monkeypatch.chdir(folder)
    return "own_lion:Lion"
