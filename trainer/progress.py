"""Show the progress of a run on stdout: a line per report and, in a terminal, a progress bar.

Away from a terminal (a file, a cluster's log) a line also says how far the run is whenever none has been printed for
EVERY seconds, so that silence means that it hangs.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trainer.report import Report
from trainer.units import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

EVERY = 30.0  # seconds without a line, away from a terminal, until one is printed


def line(report: Report) -> str:
    """Format a report as one line."""
    values = report.metrics
    return (
        f"step {report.step:>6,}  tokens {report.tokens:>11,}  train_loss {values['train_loss']:.4f}  "
        f"val_loss {values['val_loss']:.4f}  learning_rate {values['learning_rate']:.2e}  "
        f"{values['tokens_per_second']:>9,.0f} tokens/s  {values['seconds']:6.1f} s"
        + ("  (full validation split)" if report.final else "")
    )


@dataclass
class Pace:
    """How far a run of `total` tokens is, how fast it goes and how long it still takes, scoring included.

    Its speed counts from the first step that it is told of: what comes before (compiling, first allocations) is
    slower. start: when the run was started. All times are seconds of one clock.
    """

    total: int
    start: float = field(default_factory=time.monotonic)
    _first: tuple[float, int] | None = None
    """seconds and tokens"""
    _tokens: int = 0

    def step(self, tokens: int, now: float) -> None:
        """The run has trained on so many tokens at that time."""
        if self._first is None or tokens < self._tokens:  # the latter: it began again from its last checkpoint
            self._first = now, tokens
        self._tokens = tokens

    def describe(self, now: float) -> str:
        """One line for people."""
        if self._first is None:
            return f"no step yet after {duration(now - self.start)}"
        far = f"tokens {self._tokens:,} of {self.total:,} ({self._tokens / self.total:.1%})"
        began, first = self._first
        if self._tokens == first or now <= began:
            return far
        speed = (self._tokens - first) / (now - began)
        left = max(0, self.total - self._tokens) / speed
        return f"{far}  {speed:,.0f} tokens/s with scoring  about {duration(left)} left"


class Lines:
    """Prints `describe()` whenever nothing has been printed for EVERY seconds, from a thread of its own."""

    def __init__(self, describe: Callable[[], str]) -> None:
        self._describe = describe
        self._printed = time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def printed(self) -> None:
        """A line has just been printed."""
        self._printed = time.monotonic()

    def _run(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # nobody reads stdout any more: the run continues
            while not self._over.wait(max(0.01, self._printed + EVERY - time.monotonic())):
                if time.monotonic() >= self._printed + EVERY:
                    print(self._describe(), flush=True)
                    self.printed()

    def __enter__(self) -> Lines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@contextlib.contextmanager
def waiting(what: str) -> Iterator[None]:
    """Say what takes so long, away from a terminal, for as long as the block runs."""
    if sys.stdout.isatty():
        yield
        return
    began = time.monotonic()
    with Lines(lambda: f"{what}: {duration(time.monotonic() - began)} so far"):
        yield


@dataclass(frozen=True)
class Display:
    """Receives the reports and steps of `train`. In a terminal it has a bar, elsewhere it prints only lines."""

    bar: Progress | None = None
    task: TaskID | None = None
    lines: Lines | None = None
    pace: Pace = field(default_factory=lambda: Pace(1))

    def report(self, report: Report) -> None:
        self.say(line(report))

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.bar is not None:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)
            return
        print(text, flush=True)
        if self.lines is not None:
            self.lines.printed()

    def on_step(self, tokens: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=tokens)
        self.pace.step(tokens, time.monotonic())


@contextlib.contextmanager
def display(total_tokens: int) -> Iterator[Display]:
    """Open a display for one run; its bar is removed at the end."""
    pace = Pace(total_tokens)
    if not sys.stdout.isatty():
        with Lines(lambda: pace.describe(time.monotonic())) as lines:
            yield Display(lines=lines, pace=pace)
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("training"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("time left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, transient=True) as bar:
        yield Display(bar, bar.add_task("training", total=total_tokens), pace=pace)
