"""A trial that takes a fraction of a second: forty steps of a very small GPT on a few generated stories."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import torch

from data.dataset import Dataset, Split
from data.prepare import prepare
from models.gpt import GPT
from trainer.config import TrainConfig
from trainer.device import Machine
from trainer.evaluate import Evaluation, evaluate
from trainer.loop import train
from trainer.report import Report, Result

_FOLDER = tempfile.TemporaryDirectory(prefix="nanosweep-tests-")  # goes away with the process
STEPS = 40


@functools.cache
def stories(n: int = 120, tokenizer: str = "char") -> Dataset:
    """n stories, prepared once per test session."""
    return prepare(f"stories:{n}", tokenizer, cache=Path(_FOLDER.name))


def config(**changes: Any) -> TrainConfig:
    """40 steps of 4 x 16 tokens, 4 reports."""
    small: dict[str, Any] = {
        "n_layer": 2,
        "n_head": 2,
        "n_embd": 16,
        "block_size": 16,
        "batch_size": 4,
        "max_tokens": STEPS * 64,
        "eval_every": 10 * 64,
        "eval_tokens": 1500,
        "device": "cpu",
        "corpus": "stories:120",
    }
    return TrainConfig(**{**small, **changes})


def run(settings: TrainConfig, **options: Any) -> tuple[Result, list[Report]]:
    """Train; the result and all reports."""
    torch.set_num_threads(1)  # threads that wait for each other on a busy machine take most of the time
    reports: list[Report] = []
    data = options.pop("data", None) or stories()
    return train(settings, data, options.pop("report", reports.append), **options), reports


# a rate that grows until it undoes what was learned: the best report is among the first, and no number overflows
RUINOUS: dict[str, Any] = {"learning_rate": 5.0, "warmup_frac": 0.5, "schedule": "constant", "grad_clip": 0.0}
TIMING = ("seconds", "eval_seconds", "tokens_per_second", "peak_memory_mb")


def values(report: Report) -> dict[str, float]:
    """A report's metrics without those that depend on the clock."""
    return {name: value for name, value in report.metrics.items() if name not in TIMING}


def score(weights: dict[str, torch.Tensor], settings: TrainConfig, split: Split | None = None) -> Evaluation:
    """Evaluate weights on the full validation split, or another."""
    data = stories()
    model = GPT(settings.shape(data.n_classes), torch.Generator())
    model.load_state_dict(weights)
    return evaluate(model, split or data.val, settings, data.token_bytes, Machine(torch.device("cpu")))
