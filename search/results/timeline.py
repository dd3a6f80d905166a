"""Who worked when: a study's drivers, their workers, what each did and how long it waited. Pure.

The journal knows when a trial got a worker and when it gave it back, not which worker it was: trials are laid out on
as few rows as hold them, and there are at least as many rows as the driver had places for trials.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.study.study import Stint, Study, Trial


@dataclass(frozen=True)
class Bar:
    """A trial on a worker. row: from 0; begin, end: seconds since its driver began; status: how it ended."""

    trial: int
    row: int
    begin: float
    end: float
    status: str
    node: str | None


@dataclass(frozen=True)
class Session:
    """One driver from its first record to its last. began: seconds since the epoch; wall: seconds; rows: workers."""

    began: float
    wall: float
    rows: int
    bars: tuple[Bar, ...]

    @property
    def busy(self) -> float:
        """Worker seconds in which a trial held the worker."""
        return sum(bar.end - bar.begin for bar in self.bars)

    @property
    def idle(self) -> dict[str, float]:
        """Worker seconds without a trial: before a worker's first one, between two, after its last."""
        found = dict.fromkeys(("before", "between", "after"), 0.0)
        for row in range(self.rows):
            bars = [bar for bar in self.bars if bar.row == row]  # in the order of time
            begins, ends = [bar.begin for bar in bars], [bar.end for bar in bars]
            found["before"] += begins[0] if bars else self.wall
            found["after"] += self.wall - ends[-1] if bars else 0.0
            found["between"] += sum(begin - end for begin, end in zip(begins[1:], ends[:-1], strict=True))
        return found


def sessions(study: Study) -> list[Session]:
    """The drivers in the order of time."""
    found = []
    for place, (first, last) in enumerate(study.sessions):
        mine = [(stint, trial) for trial in study.trials.values() for stint in trial.stints if stint.session == place]
        known = study.workers[place].get("slots", 0) if place < len(study.workers) else 0
        bars = _lay_out(mine, first, last)
        rows = max([int(known), *(bar.row + 1 for bar in bars)])
        found.append(Session(first, last - first, rows, tuple(bars)))
    return found


def _lay_out(stints: list[tuple[Stint, Trial]], first: float, last: float) -> list[Bar]:
    """On the first row that is free, of those rather one whose last trial was on the same node."""
    bars: list[Bar] = []
    free: list[tuple[float, str | None]] = []  # of each row: from when, and where it worked last
    for stint, trial in sorted(stints, key=lambda pair: (pair[0].begin, pair[1].number)):
        begin = min(max(stint.begin, first), last)
        end = min(max(last if stint.end is None else stint.end, begin), last)
        able = [row for row, (since, _) in enumerate(free) if since <= begin]
        row = next((row for row in able if free[row][1] == stint.node), able[0] if able else len(free))
        free[row : row + 1] = [(end, stint.node)]
        bars.append(Bar(trial.number, row, begin - first, end - first, stint.status, stint.node))
    return bars


@dataclass(frozen=True)
class Cost:
    """What a group of trials took. worker_seconds: in which they held workers; cpu and gpu hours: what these had,
    None where the journal is of a release that did not write it down."""

    trials: int
    tokens: int
    repeated: int
    worker_seconds: float
    cpu_hours: float | None
    gpu_hours: float | None


def cost(study: Study, trials: list[Trial]) -> Cost:
    """Of some trials of a study. A stretch without an end (a driver that died) counts to its driver's last record."""
    seconds = dict.fromkeys(range(len(study.sessions)), 0.0)
    for trial in trials:
        for stint in trial.stints:
            last = study.sessions[stint.session][1]
            seconds[stint.session] += max(0.0, (last if stint.end is None else min(stint.end, last)) - stint.begin)
    hours = {
        key: sum(spent * study.workers[place][key] for place, spent in seconds.items() if spent) / 3600
        if all(key in study.workers[place] for place, spent in seconds.items() if spent)
        else None
        for key in ("cpus", "gpus")
    }
    return Cost(
        len(trials),
        sum(trial.tokens for trial in trials),
        sum(trial.repeated for trial in trials),
        sum(seconds.values()),
        hours["cpus"],
        hours["gpus"],
    )
