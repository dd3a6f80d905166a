"""Format numbers for people: 1_300_000 tokens as 1.3M, 83 seconds as 1m23s."""

from __future__ import annotations

import math


def count(number: float) -> str:
    """Three digits and k, M, B or T, for tokens and parameters.

    >>> count(1_300_000), count(999_999), count(512)
    ('1.3M', '1M', '512')
    """
    for size, unit in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size * 0.9995:  # what would round to 1000 of a unit is 1 of the next
            return f"{number / size:.3g}{unit}"
    return f"{number:.0f}"


def duration(seconds: float) -> str:
    """Seconds in the two largest units.

    >>> duration(8.2), duration(83), duration(7500), duration(200_000)
    ('8s', '1m23s', '2h05m', '2d07h')
    """
    if not math.isfinite(seconds):
        return "?"
    total = round(seconds)
    if total < 60:
        return f"{total}s"
    if total < 3600:
        return f"{total // 60}m{total % 60:02d}s"
    if total < 86400:
        return f"{total // 3600}h{total % 3600 // 60:02d}m"
    return f"{total // 86400}d{total % 86400 // 3600:02d}h"


def compact(value: float) -> str:
    """Two digits, as short as possible.

    >>> compact(1234567), compact(4.885e19), compact(12.3), compact(1e-7)
    ('1.2e6', '4.9e19', '12', '1e-7')
    """
    digits, e, exponent = f"{value:.2g}".partition("e")
    return f"{digits}e{int(exponent)}" if e else digits


def memory(megabytes: float) -> str:
    """Megabytes as MB or GB.

    >>> memory(812.3), memory(4096)
    ('812 MB', '4.1 GB')
    """
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1000:.1f} GB"


def score(value: float) -> str:
    """Four digits or more: two trials that differ by 0.1 % must not look alike.

    >>> score(3.21456), score(12.3456), score(1234.56), score(1.5e7)
    ('3.215', '12.35', '1234.6', '1.5e+07')
    """
    if not math.isfinite(value) or abs(value) >= 100_000:
        return f"{value:.3g}"
    return f"{value:.{3 if value < 10 else 2 if value < 1000 else 1}f}"


def plural(number: float, noun: str) -> str:
    """A number of things.

    >>> plural(1, "trial"), plural(2000, "trial"), plural(0.5, "hour")
    ('1 trial', '2,000 trials', '0.5 hours')
    """
    return f"{number:,.12g} {noun}{'' if number == 1 else 's'}"
