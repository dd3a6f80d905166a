"""What a person sees while a study runs: a live table in a terminal, plain lines elsewhere (a log, a pipe).

    with live.shown(ledger.study, slots, length, console) as view:
        ledger.listeners.append(view)

A listener of the ledger and nothing more: it keeps no facts of its own, and everything shown is in the journal.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from search.spec.study_spec import Budget
from search.stats.statistics import fit
from search.study import journal
from search.study.journal import INACTIVE, Record
from search.study.scores import best, finalists, objective_of, ranked
from search.study.study import Study, Trial
from trainer import units

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

TOP = 10  # trials of the leaderboard that are shown
REFRESH = 2.0  # times a second
QUIET = 30.0  # seconds without a line, where lines are printed, after which one says how the study stands
_GAP = 2  # characters between two columns
_GIVING_WAY = {"config": 8, "rung": 99, "tokens": 99}  # the least width of each; it is left out rather than narrower
_SHORTEST_NAME = 12  # characters of the study's name that stay


@contextmanager
def shown(study: Study, slots: int, length: int, console: Console) -> Iterator[View]:
    """Show a study while the block runs. Give the view to the ledger's listeners.

    slots: trials at once. length: tokens of a whole trial.
    """
    from rich.live import Live

    view = View(study, slots, length, console)
    if not console.is_terminal:
        view.begin()
        with _never_quiet(view):
            yield view
        return
    with Live(get_renderable=view.render, console=console, refresh_per_second=REFRESH, transient=True):
        yield view


@contextmanager
def _never_quiet(view: View) -> Iterator[None]:
    """Print how the study stands whenever nothing else was printed for QUIET seconds."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(max(0.1, view.printed + QUIET - time.monotonic())):
            if time.monotonic() - view.printed >= QUIET:
                view.say_progress()

    thread = threading.Thread(target=watch, name="live-lines", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


class View:
    """A study as lines or as a table. Calling it with a journal record prints the line, where lines are printed."""

    listener_name = "the live table"

    def __init__(self, study: Study, slots: int, length: int, console: Console) -> None:
        self.study, self.slots, self.length, self.console = study, slots, length, console
        self.name, self.budget = study.header.name, study.header.spec.budget
        self.objective = objective_of(study)
        self.started = self.printed = time.monotonic()  # printed: when the last line was
        self._pace_from: tuple[float, int] | None = None  # when the first report came: starting up is no pace

    # plain lines

    def begin(self) -> None:
        """The first lines: the study, and where it continues from."""
        trials = self.study.trials.values()
        done = sum(trial.status in INACTIVE for trial in trials)
        continuation = f", continues after {units.plural(done, 'ended trial')}" if trials else ""
        self._say(f"study {self.name}: {self._budget()}, {self.slots} at once{continuation}{self._floor()}")

    def __call__(self, record: Record) -> None:
        if record["record"] == "report" and self._pace_from is None:
            self._pace_from = time.monotonic(), self.study.tokens
        if self.console.is_terminal or record["record"] != "status":
            return
        if record["status"] == "running" and not record.get("cause"):  # it begins anew, where there is one
            return
        trial = self.study.trials[record["trial"]]
        score = self._score(trial)
        parts = [f"trial {trial.number:<3} {_state(trial):<18} {self.objective.unit} {score:>8}"]
        parts += [f"tokens {units.count(trial.tokens):>6}", units.duration(trial.seconds), trial.name, trial.cause]
        self._say("  ".join(part for part in parts if part))

    def say_progress(self) -> None:
        """A line like the table's first one."""
        self._say(self._head(list(self.study.trials.values())).plain)

    def _say(self, line: str) -> None:
        self.printed = time.monotonic()
        with suppress(OSError):  # nobody reads any more (`| head`): the study continues
            print(line, file=self.console.file, flush=True)

    # the table

    def render(self) -> RenderableType:
        """The whole screen: it fits whatever height the terminal has."""
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        trials = list(self.study.trials.values())
        top, running, rest = _chosen(self.study, trials, self.console.height)
        heads = ("trial", "status", "rung", "tokens", self.objective.unit, "config")
        rows = [self._row(trial) for trial in (*top, *running)]
        table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="dim")
        widths = _widths(heads, rows, self.console.width)
        for head, width in widths.items():
            justify: Any = "left" if head in ("status", "config") else "right"
            table.add_column(head, justify=justify, no_wrap=True, overflow="ellipsis", width=width)
        for place, row in enumerate(rows):
            style = "cyan" if place >= len(top) else "green" if place == 0 else None
            cells = zip(heads, row, strict=True)  # as Text: a value in brackets is no markup
            table.add_row(*(Text(cell) for head, cell in cells if head in widths), style=style)
        texts = [self._head(trials), Text(self._best()), Text(rest, style="dim")]
        for text in texts:
            text.no_wrap, text.overflow = True, "ellipsis"
        return Group(*texts[:2], table, *([texts[2]] if rest else []))

    def _row(self, trial: Trial) -> tuple[str, ...]:
        rung = max((r["rung"] for r in trial.reports if r["rung"]), default=None)
        return (
            str(trial.number),
            _state(trial),
            "" if rung is None else units.count(rung),
            units.count(trial.tokens),
            self._score(trial),
            trial.name,
        )

    def _head(self, trials: list[Trial]) -> Text:
        """The first line; a name that is too long for it is shortened, not the figures behind it."""
        from rich.text import Text

        busy = sum(trial.status == "running" for trial in trials)
        ended = sum(trial.status in INACTIVE for trial in trials if trial.of is None)
        now = time.monotonic()
        since, tokens = self._pace_from or (now, self.study.tokens)
        left = time_left(self.study, self.budget, self.length, now - since, self.study.tokens - tokens)
        parts = [
            self._progress(ended),
            f"{busy} of {units.plural(self.slots, 'worker')} busy",
            units.duration(now - self.started),
        ]
        parts += [f"about {units.duration(left)} left"] if left is not None else []
        figures = " · ".join(["", *parts])
        name = Text(self.name)
        name.truncate(max(_SHORTEST_NAME, self.console.width - len(figures)), overflow="ellipsis")
        name.append(figures).stylize("bold")
        return name

    def _best(self) -> str:
        leader = best(self.study)
        if leader is None:
            return f"no trial at full length yet{self._floor()}"
        if (mean := fit(finalists(self.study)).means.get(leader.number)) is None:
            return f"best {self.objective.unit} {self._score(leader)}, trial {leader.number}{self._floor()}"
        seeds = units.plural(len(finalists(self.study)[leader.number]), "fresh seed")
        value = f"{self.objective.unit} {self.objective.value(mean):.4g} over {seeds}"
        return f"leader: trial {leader.number}, {value}{self._floor()}"

    def _floor(self) -> str:
        low = self.study.header.data.floor.get(self.objective.name)
        return "" if low is None else f" · entropy floor {low:.4g}"

    def _budget(self) -> str:
        return " or ".join(self._limits().values())

    def _limits(self) -> dict[str, str]:
        say = {"trials": lambda n: units.plural(n, "trial"), "tokens": lambda n: f"{units.count(n)} tokens"}
        say["hours"] = lambda n: units.duration(n * 3600)
        return {key: words(limit) for key, words in say.items() if (limit := getattr(self.budget, key))}

    def _progress(self, ended: int) -> str:
        """How much of each part of the budget is spent."""
        spent = {"trials": str(ended), "tokens": units.count(self.study.tokens)}
        spent["hours"] = units.duration(self.study.seconds(journal.now()))
        again = len(self.study.trials) - len(self.study.searched)
        parts = [f"{spent[key]} of {limit}" for key, limit in self._limits().items()]
        return ", ".join(parts + ([f"{units.plural(again, 'run')} of finalists"] if again else []))

    def _score(self, trial: Trial) -> str:
        metrics: dict[str, Any] = trial.reports[-1]["metrics"] if trial.reports else {}
        value = metrics.get(self.objective.name)
        return "" if value is None else f"{value:.4g}"


def _widths(heads: tuple[str, ...], rows: list[tuple[str, ...]], width: int) -> dict[str, int]:
    """The columns that a terminal of that width shows, each with its own: the config gives way first.

    Only where the other columns do not fit either, which is below some 55 characters, they are left out too.
    """
    from rich.cells import cell_len

    widths = {head: max(map(cell_len, column)) for head, *column in zip(heads, heads, *rows, strict=True)}
    for head, least in _GIVING_WAY.items():
        excess = sum(widths.values()) + _GAP * (len(widths) - 1) - width
        if excess <= 0:
            break
        if widths[head] - excess >= least:
            widths[head] -= excess
        else:
            del widths[head]
    return widths


def _state(trial: Trial) -> str:
    if trial.status in ("pruned", "paused") and trial.rung:
        return f"{trial.status} at {units.count(trial.rung)}"
    return trial.status.replace("_", " ")


def _chosen(study: Study, trials: list[Trial], height: int) -> tuple[list[Trial], list[Trial], str]:
    """The best and the running trials for which there is room, and a line that counts the others."""
    room = max(2, height - 5)  # two lines above, the heads, the counts, the cursor
    running = [trial for trial in trials if trial.status == "running"]
    full = ranked(study, (trial for trial in trials if trial.of is None))
    shown_running = running[: max(1, room - min(TOP, len(full), room // 2))]
    top = full[: min(TOP, room - len(shown_running))]
    others = Counter(trial.status.replace("_", " ") for trial in trials)
    others.subtract(trial.status.replace("_", " ") for trial in [*top, *shown_running])
    parts = [f"{count} more {status}" for status, count in sorted(others.items()) if count]
    return top, shown_running, ", ".join(parts)


def time_left(study: Study, budget: Budget, length: int, elapsed: float, trained: int) -> float | None:
    """Seconds until the first part of the budget is used up, at the pace so far; None while nothing is known.

    length: tokens of a whole trial. trained: tokens in the `elapsed` seconds. A trial to come is taken to need as
    many tokens as those that ended did on average.
    """
    estimates = []
    if budget.hours:
        estimates.append(budget.hours * 3600 - study.seconds(journal.now()))
    trials = list(study.trials.values())
    if trained and elapsed > 0:
        ended = [trial.tokens for trial in trials if trial.status in INACTIVE]
        usual = sum(ended) / len(ended) if ended else length
        going = [max(0.0, usual - trial.tokens) for trial in trials if trial.status not in INACTIVE]
        if budget.trials:
            todo = sum(going) + usual * max(0, budget.trials - len(study.searched))
            estimates.append(todo * elapsed / trained)
        if budget.tokens:
            todo = max(sum(going), budget.tokens - study.tokens)
            estimates.append(todo * elapsed / trained)
    return max(0.0, min(estimates)) if estimates else None
