"""The leaderboard as a terminal table, Markdown, CSV or JSON, with the notes of `search.results.notes` under it."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from search.results import agreement, by_value
from search.results.attempt import NotComputed, attempt
from search.results.leaderboard import Row, parameter_column
from search.results.notes import note_lines
from search.results.standing import Standings, rows, standings
from search.spec.objective import OBJECTIVES, Objective
from search.stats.statistics import Standing
from search.study.scores import objective_of
from search.study.study import Study
from trainer import units

Format = Callable[[Any], str]


@dataclass(frozen=True)
class Column:
    """A column of the table. key: of the row, shown by `form`; its head may be a user's text and like another one.

    needs: the row's key without any value of which the column is dropped. words: whether it holds text.
    """

    head: str
    key: str
    form: Format
    needs: str = ""
    words: bool = False


@dataclass(frozen=True)
class Cells:
    """The table as text. lines: of cells, a line per row. left_out: the number of rows that are not shown."""

    columns: list[Column]
    lines: list[list[str]]
    left_out: int
    notes: list[str]

    @property
    def heads(self) -> list[str]:
        return [column.head for column in self.columns]


# keys of the columns that a narrow terminal drops, in this order
_DROPPED = (
    *("peak_memory_mb", "n_parameters", "best_report", "seconds", "val_bits_per_byte", "median", "val_loss"),
    *("val_objective_loss", "text_text", "seed_text", "train_objective_loss", "test_objective_loss", "train_loss"),
    *("mainrun_coverage", "mainrun_nats_per_char"),
)
_CONFIG = 60  # characters of the config column that are kept in preference to a column of _DROPPED
_LEAST_CONFIG = 8  # and those that are kept in preference to one of these, in this order
_DROPPED_LAST = ("name", "tokens", "trials", "full_length", "difference_text", "state")


def render(
    study: Study, by: str | None = None, limit: int | None = None, width: int | None = None, color: bool = False
) -> str:
    """The table and its notes as text.

    by: a config key, for one row per value. limit: rows shown, None for all. width: of the terminal in characters,
    None for a pipe. color: with terminal colours. Raises UserError for an unknown key.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    ranked = standings(study, _leaders(study, by))
    cells = _cells(study, by, limit, ranked)
    width = width or (300 if by else 200)  # for a pipe
    columns, lines = _fit(cells.columns, cells.lines, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(Text(column.head), justify="left" if column.words else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line), style="green" if line[0] == "1" else None)
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="auto" if color else None)
    console.print(table)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join([text, "", *cells.notes]) + "\n"


def _leaders(study: Study, by: str | None) -> list[int] | None:
    """With `by`: the best trial of each value; only these are compared then."""
    return None if by is None else [trial.number for trial in by_value.leaders(study, by).values()]


def _fit(columns: list[Column], lines: list[list[str]], width: int) -> tuple[list[Column], list[list[str]]]:
    """The table cut to a width: columns of _DROPPED go first, then the config is shortened, then others go too."""
    # each column's width, the gap behind it included
    texts = zip((column.head for column in columns), *lines, strict=True)
    widths = [max(map(len, column)) + 2 for column in texts]
    kept = list(range(len(columns)))

    def needed(config: int) -> int:
        """The characters that the table needs if so many of its config column are kept."""
        return sum(min(widths[at], config + 2) if columns[at].key == "name" else widths[at] for at in kept) - 2

    for keys, config in ((_DROPPED, _CONFIG), (_DROPPED_LAST, _LEAST_CONFIG)):
        for key in keys:
            if needed(config) <= width:
                break
            kept = [at for at in kept if columns[at].key != key]
    room = width - sum(widths[at] for at in kept if columns[at].key != "name")
    return [columns[at] for at in kept], [
        # a long point is shortened rather than the numbers beside it
        [_cut(line[at], room) if columns[at].key == "name" else line[at] for at in kept]
        for line in lines
    ]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def markdown(study: Study, by: str | None = None, limit: int | None = 100, ranked: list[Standing] | None = None) -> str:
    """leaderboard.md: the same table with a heading. ranked: the standings of the trials, computed here if None."""
    ranked = standings(study, _leaders(study, by)) if ranked is None else ranked
    cells = _cells(study, by, limit, ranked)
    ruler = ["---" if column.words else "---:" for column in cells.columns]
    table = [[*map(_escape, cells.heads)], ruler, *([*map(_escape, line)] for line in cells.lines)]
    ruled = ["| " + " | ".join(line) + " |" for line in table]
    notes = [f"{_escape(note)}  " for note in cells.notes]
    return "\n".join([f"# {_escape(study.header.name)}", "", *ruled, "", *notes]) + "\n"


def _escape(text: str) -> str:
    """A user's text within a line of Markdown: no cell, tag, code, emphasis or link of its own."""
    return re.sub(r"[\\|<&`*~]|(?<!\w)_|_(?!\w)|\](?=[(\[])", r"\\\g<0>", " ".join(text.split()))


def as_csv(study: Study, by: str | None = None) -> str:
    """All rows as CSV; plain numbers, an empty cell for None."""
    ranked = standings(study, _leaders(study, by))
    table = by_value.rows(study, by, ranked) if by else rows(study, ranked)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def as_json(study: Study, by: str | None = None, ranked: list[Standing] | None = None) -> str:
    """All rows as JSON: {"trials": rows, "rungs": agreement of each rung}, with `by` {"groups": rows, "rungs": ...}.

    A missing or non-finite number is null; `not_computed` holds lines on what could not be computed. ranked: the
    standings of the trials, computed here if None.
    """
    ranked = standings(study, _leaders(study, by)) if ranked is None else ranked
    tables = {"groups": by_value.rows(study, by, ranked)} if by else {"trials": rows(study, ranked)}
    agreed = attempt(agreement.agreement, study)
    tables["rungs"] = [] if isinstance(agreed, NotComputed) else [asdict(row) for row in agreed]
    problems = [*ranked.problems] if isinstance(ranked, Standings) else []
    problems += [f"rungs: {agreed}"] if isinstance(agreed, NotComputed) else []
    plain = _plain({**tables, **({"not_computed": problems} if problems else {})})
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cells(study: Study, limit: int | None, ranked: list[Standing]) -> tuple[list[str], list[list[str]], list[str]]:
    """The leaderboard as text cells, for the HTML report: headings, lines, notes."""
    table = _cells(study, None, limit, ranked)
    return table.heads, table.lines, table.notes


def _cells(study: Study, by: str | None, limit: int | None, ranked: list[Standing]) -> Cells:
    table = by_value.rows(study, by, ranked) if by else rows(study, ranked)
    columns = _by_columns(study, by, by_value.has_own_loss(table)) if by else _columns(study)
    shown = table if limit is None else table[:limit]
    displayed = _display_rows(shown, objective_of(study))
    columns = [column for column in columns if not column.needs or any(row.get(column.needs) for row in displayed)]
    lines = [[_cell(row, column) for column in columns] for row in displayed]
    left_out = len(table) - len(shown)
    column_notes = by_value.note(study, table) if by else []
    return Cells(columns, lines, left_out, [*column_notes, *note_lines(study, left_out, ranked)])


def _standing_columns(target: Objective) -> list[Column]:
    return [
        Column(target.unit, "shown", target.show),
        Column("seeds", "seed_text", str, needs="seeds"),
        Column("text", "text_text", str, needs="text_low"),
        Column("from leader", "difference_text", str, needs="difference"),
    ]


def _columns(study: Study) -> list[Column]:
    target = objective_of(study)
    beside = OBJECTIVES[target.beside]
    return [
        Column("#", "rank", str),
        Column("trial", "trial", str),
        *_standing_columns(target),
        Column(beside.unit, beside.name, beside.show),
        # with `split: mainrun`
        Column("nats/char", "val_nats_per_char", "{:.4f}".format, needs="val_nats_per_char"),
        Column("evaluate()", "mainrun_nats_per_char", "{:.4f}".format, needs="mainrun_nats_per_char"),
        Column("coverage", "mainrun_coverage", "{:.1%}".format, needs="mainrun_coverage"),
        Column("best report", "best_report", target.show),
        Column("tokens", "tokens", units.count),
        Column("time", "seconds", units.duration),
        Column("params", "n_parameters", units.count),
        Column("memory", "peak_memory_mb", units.memory),
        Column("status", "state", str, words=True),
        Column("config", "name", str, words=True),
    ]


def _by_columns(study: Study, by: str, own_loss: bool) -> list[Column]:
    target = objective_of(study)
    losses = [
        Column("train loss", "train_loss", units.score, needs="train_loss"),
        Column("val loss", "val_loss", units.score, needs="val_loss"),
        Column(f"test {target.scale_name}", "test_text", str, needs="test"),
    ]
    own_losses = [
        Column(f"own {split}", key, units.score, needs=key)
        for split in ("train", "val", "test")
        for key in (f"{split}_objective_loss",)
    ]
    return [
        Column("#", "rank", str),
        Column(by, parameter_column(by), str, words=True),
        *_standing_columns(target),
        *losses,
        *(own_losses if own_loss else []),
        Column("median", "median", target.show),
        Column("full length", "full_length", str),
        Column("trials", "trials", str),
        Column("tokens", "tokens", units.count),
        Column("trial", "best_trial", str),
        Column("config", "name", str, words=True),
    ]


def _display_rows(table: list[Row], target: Objective) -> list[Row]:
    return [
        {
            **row,
            "rank": None if row["objective"] is None else row.get("group") or place,
            "shown": row["objective"] if row.get("value") is None else row["value"],
            "seed_text": _seeds(row),
            "text_text": _range(row.get("text_low"), row.get("text_high")),
            "difference_text": _difference(row, target),
            "test_text": _test(row),
            "state": _state(row),
        }
        for place, row in enumerate(table, 1)
    ]


def _seeds(row: Row) -> str | None:
    """The number of seeds of a value, and its interval over them."""
    if row.get("seeds") is None:
        return None
    span = _range(row.get("seed_low"), row.get("seed_high"))
    return f"{row['seeds'] or 'one'}{': ' + span if span and row['seeds'] else ''}"


def _test(row: Row) -> str | None:
    """The value on the test split, with its interval over seeds."""
    if row.get("test") is None:
        return None
    span = _range(row["test_seed_low"], row["test_seed_high"])
    return f"{units.score(row['test'])}{f' ({span})' if span else ''}"


def _range(low: float | None, high: float | None) -> str | None:
    return None if low is None or high is None else f"{units.score(low)}–{units.score(high)}"


def _difference(row: Row, target: Objective) -> str | None:
    if row.get("difference") is None:
        return None
    ends = None if row.get("difference_low") is None else (row["difference_low"], row["difference_high"])
    return target.show_difference(row["difference"], ends)


def _state(row: Row) -> str:
    status = str(row.get("status", ""))
    if status in ("pruned", "paused") and row["rung"]:
        return f"{status} at {units.count(row['rung'])}"
    return status.replace("_", " ")


def _cell(row: Row, column: Column) -> str:
    value = row.get(column.key)
    return "" if value is None else str(attempt(column.form, value))
