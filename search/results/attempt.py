"""What stands beside a result costs only itself: where it cannot be computed, the reason stands in its place.

    lines("how well rungs predicted", agreement.lines, study)     # or ["how well rungs ...: not computed: ..."]
    drawn = attempt(curves, study, 350)                           # a chart, or NotComputed

The journal, best.yaml and the order of the table are results. Notes, cautions, intervals, charts and figures are
beside them, and go through here, so that no mistake in one of them ends a command after hours of training.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import ParamSpec, TypeVar

import numpy as np

from data.errors import UserError

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class NotComputed:
    """Stands where something could not be computed. reason: one line."""

    reason: str

    def __str__(self) -> str:
        return f"not computed: {self.reason}"


def attempt(compute: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | NotComputed:
    """What `compute` returns, or NotComputed for any exception that it raises. numpy's infinities come without a
    warning: they are shown as they are."""
    try:
        with np.errstate(all="ignore"):
            return compute(*args, **kwargs)
    except Exception as error:
        return NotComputed(_reason(error))


def lines(subject: str, compute: Callable[P, Iterable[str]], *args: P.args, **kwargs: P.kwargs) -> list[str]:
    """The lines that `compute` gives, or one that says why there are none. subject: of the lines, in a few words."""
    computed = attempt(lambda: list(compute(*args, **kwargs)))
    return [f"{subject}: {computed}"] if isinstance(computed, NotComputed) else computed


def _reason(error: Exception) -> str:
    """The error in one printable line; where it is no user's mistake, with its kind and place."""
    text = str(UserError(" ".join(str(error).split())))
    if isinstance(error, UserError):
        return text
    frame = traceback.extract_tb(error.__traceback__)[-1]
    kind = type(error).__name__
    return f"{f'{kind}: {text}' if text else kind} ({Path(frame.filename).name}:{frame.lineno})"
