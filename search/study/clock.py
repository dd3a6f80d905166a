"""The time that the records of a journal bear: seconds since the epoch that never jump.

The machine's clock is read once, when the process begins; from then on seconds are counted. A clock that is set (by NTP
after the start, by hand) would otherwise use up a budget of hours at once, or stretch it.
"""

from __future__ import annotations

import time

# of the clocks that nobody can set, one that also counts the time in which the machine sleeps, as the wall's does
_COUNTER: int = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BEGAN = time.time() - time.clock_gettime(_COUNTER)


def now() -> float:
    """Seconds since the epoch; the difference of two calls is the time between them, whatever happened to the clock."""
    return _BEGAN + time.clock_gettime(_COUNTER)
