"""The loss curve of a run, from its reports, and where over-fitting begins. Pure functions.

Reports during training score a fixed subset of the text and compare with each other. The final report scores the full
validation split, which is other text, so its value is kept apart from the curve.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

# a rise by less than 0.1 % is no rise: near its minimum a curve is level, and the minimum may lie anywhere there
LEVEL = 1e-3
Points = tuple[tuple[int, float], ...]  # (tokens, value), tokens rising


@dataclass(frozen=True)
class Curve:
    """The loss curve of one run.

    val, train: on the fixed subsets, finite values only. end: the full validation split's value, at the tokens of the
    weights that were scored: the last ones or, after an early stop, the best; None before a run has ended by itself.
    length: tokens trained on.
    """

    val: Points
    train: Points
    end: tuple[int, float] | None
    length: int


@dataclass(frozen=True)
class Lowest:
    """Where the validation loss was least: tokens, its value, and its value at the last report on the same text."""

    tokens: int
    value: float
    last: float
    learning: bool  # the training loss kept falling from there


def of(reports: Iterable[Mapping[str, Any]], metric: str = "val_loss") -> Curve:
    """Build the curve of a run.

    reports: step by step, each with tokens, final and metrics, as in metrics.jsonl and in a study's journal.

    metric: val_loss, or another that reports score on the validation text; only val_loss has a value of the subset at
    the end, and a training loss that compares with it.
    """
    nats = metric == "val_loss"
    val, train = list[tuple[int, float]](), list[tuple[int, float]]()
    end, length = None, 0
    for report in reports:
        at, values = int(report["tokens"]), report["metrics"]
        value, length = values.get(metric, math.nan), at
        if report["final"]:
            subset = values.get("val_loss_subset", math.nan) if nats else math.nan
            # after an early stop the scored weights are those of an earlier report, and so is the subset's value
            scored = next((tokens for tokens, earlier in val if earlier == subset), at)
            end = (scored, value) if math.isfinite(value) else None
            value = subset if scored == at else math.nan
        if math.isfinite(value):
            val.append((at, value))
        if nats and math.isfinite(trained := values.get("train_loss", math.nan)):
            train.append((at, trained))
    return Curve(tuple(val), tuple(train), end, length)


def lowest(curve: Curve) -> Lowest | None:
    """The minimum of the validation curve; None where it has fewer than two points."""
    if len(curve.val) < 2:
        return None
    at, value = min(curve.val, key=lambda point: point[1])
    train = dict(curve.train)
    then, now = train.get(at, math.nan), train.get(curve.val[-1][0], math.nan)
    return Lowest(at, value, curve.val[-1][1], now < then)


def overfitting(curve: Curve) -> int | None:
    """Tokens from which the validation loss rises while the training loss keeps falling; None where it does not."""
    minimum = lowest(curve)
    if minimum is None or not minimum.learning or minimum.last <= minimum.value * (1 + LEVEL):
        return None
    return minimum.tokens


def sentence(curve: Curve, count: Callable[[float], str] = "{:,.0f}".format) -> str:
    """A sentence on over-fitting, for people; empty for a curve of fewer than two points.

    count: formats a number of tokens.
    """
    minimum = lowest(curve)
    if minimum is None:
        return ""
    if minimum.tokens == curve.val[-1][0]:
        return "validation loss is lowest at the last report: no over-fitting seen"
    opening = (
        f"validation loss is lowest at {count(minimum.tokens)} of {count(curve.length)} tokens "
        f"({minimum.value:.4g}; {minimum.last:.4g} at the last report)"
    )
    if overfitting(curve) is not None:
        return f"{opening}: over-fitting from there"
    level = minimum.last <= minimum.value * (1 + LEVEL)
    return f"{opening}: level from there" if level else f"{opening}, and the training loss rose too: not over-fitting"
