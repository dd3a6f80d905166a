"""The timeline of a study: which trial ran when, by driver and worker, with idle time and cost. Pure.

The journal records when a trial got a worker and when it released it, but not which worker. Trials are therefore laid
out on as few rows as possible; a driver has at least as many rows as it had slots for concurrent trials.
"""

from __future__ import annotations

from dataclasses import dataclass

from search.study.study import Stint, Study, Trial


@dataclass(frozen=True)
class Bar:
    """A trial's time on a worker. row: from 0; begin, end: seconds since its driver began; status: how it ended."""

    trial: int
    row: int
    begin: float
    end: float
    status: str
    node: str | None


@dataclass(frozen=True)
class Session:
    """One driver, from its first record to its last. began: seconds since the epoch; wall: seconds; rows: workers."""

    began: float
    wall: float
    rows: int
    bars: tuple[Bar, ...]

    @property
    def busy(self) -> float:
        """Worker-seconds in which a trial held a worker."""
        return sum(bar.end - bar.begin for bar in self.bars)

    @property
    def idle(self) -> dict[str, float]:
        """Worker-seconds without a trial, by key: before a worker's first trial, between two, after its last."""
        seconds = dict.fromkeys(("before", "between", "after"), 0.0)
        for row in range(self.rows):
            bars = [bar for bar in self.bars if bar.row == row]  # in order of time
            begins, ends = [bar.begin for bar in bars], [bar.end for bar in bars]
            seconds["before"] += begins[0] if bars else self.wall
            seconds["after"] += self.wall - ends[-1] if bars else 0.0
            seconds["between"] += sum(begin - end for begin, end in zip(begins[1:], ends[:-1], strict=True))
        return seconds


def sessions(study: Study) -> list[Session]:
    """The study's drivers, in order of time."""
    drivers = []
    for place, (first, last) in enumerate(study.sessions):
        stints = [(stint, trial) for trial in study.trials.values() for stint in trial.stints if stint.session == place]
        slots = study.workers[place].get("slots", 0) if place < len(study.workers) else 0
        bars = _lay_out(stints, first, last)
        rows = max([int(slots), *(bar.row + 1 for bar in bars)])
        drivers.append(Session(first, last - first, rows, tuple(bars)))
    return drivers


def _lay_out(stints: list[tuple[Stint, Trial]], first: float, last: float) -> list[Bar]:
    """Each trial on a free row: one whose last trial ran on the same node if there is one, else the first."""
    bars: list[Bar] = []
    free: list[tuple[float, str | None]] = []  # per row: free from when, and the node of its last trial
    for stint, trial in sorted(stints, key=lambda pair: (pair[0].begin, pair[1].number)):
        begin = min(max(stint.begin, first), last)
        end = min(max(last if stint.end is None else stint.end, begin), last)
        free_rows = [row for row, (since, _) in enumerate(free) if since <= begin]
        row = next((row for row in free_rows if free[row][1] == stint.node), free_rows[0] if free_rows else len(free))
        free[row : row + 1] = [(end, stint.node)]
        bars.append(Bar(trial.number, row, begin - first, end - first, stint.status, stint.node))
    return bars


@dataclass(frozen=True)
class Cost:
    """What a group of trials cost.

    tokens: trained on; repeated: trained on again after an interruption; worker_seconds: time in which they held
    workers; cpu_hours, gpu_hours: cores and GPUs reserved by those workers times hours, None where the journal is of a
    release that did not record them.
    """

    trials: int
    tokens: int
    repeated: int
    worker_seconds: float
    cpu_hours: float | None
    gpu_hours: float | None


def cost(study: Study, trials: list[Trial]) -> Cost:
    """The cost of some trials. A stint without an end (its driver died) ends with the driver's last record."""
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
