"""Waiting for what takes as long as the machine takes: for the event, with one ceiling for all tests.

A test waits until something is so, and continues at once. The ceiling is only for what never happens: on two idle cores
everything that is waited for takes a tenth of it, and a machine with five times as much to do may take five times as
long. pyproject.toml ends a whole test after twice the ceiling.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

CEILING = 600.0  # seconds


def until(said: Callable[[], Any], what: str = "what was waited for") -> Any:
    """The first value of said() that is true. Raises AssertionError that names `what` after CEILING seconds."""
    end = time.monotonic() + CEILING
    while not (value := said()):
        assert time.monotonic() < end, f"{what}: not within {CEILING:g} s"
        time.sleep(0.05)
    return value
