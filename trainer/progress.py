"""Show the progress of a run on stdout: a line per report and, in a terminal, a progress bar."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainer.report import Report

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


def line(report: Report) -> str:
    """Format a report as one line."""
    values = report.metrics
    return (
        f"step {report.step:>6,}  tokens {report.tokens:>11,}  train_loss {values['train_loss']:.4f}  "
        f"val_loss {values['val_loss']:.4f}  learning_rate {values['learning_rate']:.2e}  "
        f"{values['tokens_per_second']:>9,.0f} tokens/s  {values['seconds']:6.1f} s"
        + ("  (full validation split)" if report.final else "")
    )


@dataclass(frozen=True)
class Display:
    """Receives the reports and steps of `train`. Without a terminal it has no bar and prints only lines."""

    bar: Progress | None = None
    task: TaskID | None = None

    def report(self, report: Report) -> None:
        self.say(line(report))

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if self.bar is None:
            print(text, flush=True)
        else:
            self.bar.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def on_step(self, tokens: int) -> None:
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=tokens)


@contextlib.contextmanager
def display(total_tokens: int) -> Iterator[Display]:
    """Open a display for one run; its bar is removed at the end."""
    if not sys.stdout.isatty():
        yield Display()
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
        yield Display(bar, bar.add_task("training", total=total_tokens))
