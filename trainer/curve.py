"""A run's loss against tokens, from its reports: what a picture of it shows, and where over-fitting begins. Pure.

Reports during training score a fixed subset of the text and compare with each other. The final report scores the full
validation split, which is other text: its value stands beside the curve and is no point of it.
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
    """One run.

    val, train: on the fixed subsets, finite values alone. end: the full validation split's value, at the tokens of the
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
    """reports: step by step, each with tokens, final and metrics, as in metrics.jsonl and in a study's journal.

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
    """The least point of the validation curve; None where it has fewer than two."""
    if len(curve.val) < 2:
        return None
    at, value = min(curve.val, key=lambda point: point[1])
    train = dict(curve.train)
    then, now = train.get(at, math.nan), train.get(curve.val[-1][0], math.nan)
    return Lowest(at, value, curve.val[-1][1], now < then)


def overfitting(curve: Curve) -> int | None:
    """Tokens from which the validation loss rises while the training loss keeps falling; None where it does not."""
    found = lowest(curve)
    if found is None or not found.learning or found.last <= found.value * (1 + LEVEL):
        return None
    return found.tokens


def sentence(curve: Curve, count: Callable[[float], str] = "{:,.0f}".format) -> str:
    """What the curve says about over-fitting, for people; empty for a curve of fewer than two points.

    count: writes a number of tokens.
    """
    found = lowest(curve)
    if found is None:
        return ""
    if found.tokens == curve.val[-1][0]:
        return "validation loss is lowest at the last report: no over-fitting seen"
    said = (
        f"validation loss is lowest at {count(found.tokens)} of {count(curve.length)} tokens "
        f"({found.value:.4g}; {found.last:.4g} at the last report)"
    )
    if overfitting(curve) is not None:
        return f"{said}: over-fitting from there"
    level = found.last <= found.value * (1 + LEVEL)
    return f"{said}: level from there" if level else f"{said}, and the training loss rose too: not over-fitting"
