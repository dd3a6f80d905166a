"""Pure functions of the step: the learning rate's multiplier, and whether a report is due.

Steps count from 0, as nanoGPT's `it`. Whatever depends on the length of the run is a fraction of it, so that a short
trial and a full run follow the same curve.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from trainer.config import TrainConfig


def multiplier(config: TrainConfig, step: int, total_steps: int) -> float:
    """The learning rate of `step` as a share of its peak.

    All schedules warm up along (step + 1) / (warmup + 1), nanoGPT's formula, so that no step has a rate of 0.
    Then cosine and linear fall to min_lr_frac over the rest; wsd (warm-up, stable, decay) stays at the peak and
    falls by 1 - sqrt over the last decay_frac (Haegele et al., arXiv 2405.18392); constant stays.
    """
    warmup = round(config.warmup_frac * total_steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return 1.0
    floor = config.min_lr_frac
    start = warmup
    if config.schedule == "wsd":
        start = total_steps - round(config.decay_frac * total_steps)
    if step < start:
        return 1.0
    x = min(1.0, (step - start) / max(1, total_steps - start))  # fraction of the decay that is done
    if config.schedule == "cosine":
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * x))
    if config.schedule == "linear":
        return floor + (1 - floor) * (1 - x)
    return floor + (1 - floor) * (1 - math.sqrt(x))


def n_steps(max_tokens: int, tokens_per_step: int) -> int:
    """Steps of a run: it ends at the first step boundary at or after max_tokens."""
    return -(-max_tokens // tokens_per_step)


def crossed(every: int, before: int, after: int) -> bool:
    """Whether a step from `before` to `after` tokens reaches a multiple of `every`."""
    return after // every > before // every


def rung_reached(rungs: Sequence[int], before: int, after: int) -> int | None:
    """The largest rung in (before, after], for which this is the first step boundary at or after it; or None."""
    return max((rung for rung in rungs if before < rung <= after), default=None)
