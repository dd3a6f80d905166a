"""The leaderboard as a terminal table, Markdown, CSV or JSON, with the notes of `search.results.notes` under it."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from search.results import agreement, by_value
from search.results.leaderboard import Row
from search.results.notes import note_lines
from search.results.standing import rows, standings
from search.spec.objective import OBJECTIVES, Objective
from search.stats.statistics import Standing
from search.study.scores import objective_of
from search.study.study import Study
from trainer import units

# columns that a narrow terminal drops, in this order
_DROPPED = (
    *("memory", "params", "best report", "time", "bits/byte", "median", "val loss", "own val", "text", "seeds"),
    *("own train", "own test", "train loss", "coverage", "evaluate()"),
)
_CONFIG = 60  # characters of the config column that are kept in preference to a column of _DROPPED
_LEAST_CONFIG = 8  # and those that are kept in preference to one of these, in this order
_DROPPED_LAST = ("config", "tokens", "trials", "full length", "from leader", "status")


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
    heads, lines, left_out, column_notes = _cells(study, by, limit, ranked)
    width = width or (300 if by else 200)  # for a pipe
    heads, lines = _fit(heads, lines, width)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, justify="left" if head in ("status", "config", by) else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line), style="green" if heads[0] == "#" and line[0] == "1" else None)
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=color, color_system="auto" if color else None)
    console.print(table)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join([text, "", *column_notes, *note_lines(study, left_out, ranked)]) + "\n"


def _leaders(study: Study, by: str | None) -> list[int] | None:
    """With `by`: the best trial of each value; only these are compared then."""
    return None if by is None else [trial.number for trial in by_value.leaders(study, by).values()]


def _fit(heads: list[str], lines: list[list[str]], width: int) -> tuple[list[str], list[list[str]]]:
    """The table cut to a width: columns of _DROPPED go first, then the config is shortened, then others go too."""
    for names, kept in ((_DROPPED, _CONFIG), (_DROPPED_LAST, _LEAST_CONFIG)):
        for dropped in names:
            if _least_width(heads, lines, kept) <= width:
                break
            if dropped in heads[:2] or dropped not in heads:
                continue
            at = heads.index(dropped)
            heads, lines = heads[:at] + heads[at + 1 :], [line[:at] + line[at + 1 :] for line in lines]
    if "config" in heads:  # shorten a long point rather than the numbers beside it
        at = heads.index("config")
        room = width - sum(size for head, size in _widths(heads, lines) if head != "config")
        lines = [[*line[:at], _cut(line[at], room), *line[at + 1 :]] for line in lines]
    return heads, lines


def _least_width(heads: list[str], lines: list[list[str]], config: int) -> int:
    """The characters that a table needs if so many of its config column are kept."""
    return sum(min(size, config + 2) if head == "config" else size for head, size in _widths(heads, lines)) - 2


def _widths(heads: list[str], lines: list[list[str]]) -> list[tuple[str, int]]:
    """Each heading with its column's width, the gap behind it included."""
    columns = zip(heads, *lines, strict=True)
    return [(column[0], max(len(cell) for cell in column) + 2) for column in columns]


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else text[: room - 1] + "…"


def markdown(study: Study, by: str | None = None, limit: int | None = 100, ranked: list[Standing] | None = None) -> str:
    """leaderboard.md: the same table with a heading. ranked: the standings of the trials, computed here if None."""
    ranked = standings(study, _leaders(study, by)) if ranked is None else ranked
    heads, lines, left_out, column_notes = _cells(study, by, limit, ranked)
    ruled = [heads, ["---" if head in ("status", "config", by) else "---:" for head in heads], *lines]
    table = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in ruled]
    title = f"# {study.header.name}"
    return (
        "\n".join(
            [title, "", *table, "", *(f"{line}  " for line in [*column_notes, *note_lines(study, left_out, ranked)])]
        )
        + "\n"
    )


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

    A missing or non-finite number is null. ranked: the standings of the trials, computed here if None.
    """
    ranked = standings(study, _leaders(study, by)) if ranked is None else ranked
    tables = {"groups": by_value.rows(study, by, ranked)} if by else {"trials": rows(study, ranked)}
    tables["rungs"] = [asdict(row) for row in agreement.agreement(study)]
    plain = {
        name: [{key: _plain(value) for key, value in row.items()} for row in table] for name, table in tables.items()
    }
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cells(study: Study, limit: int | None, ranked: list[Standing]) -> tuple[list[str], list[list[str]], list[str]]:
    """The leaderboard as text cells, for the HTML report: headings, lines, notes."""
    heads, lines, left_out, column_notes = _cells(study, None, limit, ranked)
    return heads, lines, [*column_notes, *note_lines(study, left_out, ranked)]


def _cells(
    study: Study, by: str | None, limit: int | None, ranked: list[Standing]
) -> tuple[list[str], list[list[str]], int, list[str]]:
    """Headings, lines, the number of rows left out, and notes on the columns."""
    table = by_value.rows(study, by, ranked) if by else rows(study, ranked)
    columns = _by_columns(study, by, by_value.has_own_loss(table)) if by else _columns(study)
    shown = table if limit is None else table[:limit]
    displayed = _display_rows(shown, objective_of(study))
    for head, key in _MAY_BE_EMPTY.items():
        if not any(row.get(key) for row in displayed):  # drop columns without any value
            columns.pop(head, None)
    lines = [[_cell(row, key, form) for key, form in columns.values()] for row in displayed]
    return list(columns), lines, len(table) - len(shown), by_value.note(study, table) if by else []


_MAY_BE_EMPTY = {
    **{"seeds": "seeds", "text": "text_low", "from leader": "difference"},
    **{"nats/char": "val_nats_per_char", "evaluate()": "mainrun_nats_per_char", "coverage": "mainrun_coverage"},
    **{"train loss": "train_loss", "val loss": "val_loss"},
    **{f"test {objective.scale_name}": "test" for objective in OBJECTIVES.values()},
    **{f"own {split}": f"{split}_objective_loss" for split in ("train", "val", "test")},
}
Format = Callable[[Any], str]
Columns = dict[str, tuple[str, Format]]


def _columns(study: Study) -> Columns:
    target = objective_of(study)
    beside = OBJECTIVES[target.beside]
    return {
        "#": ("rank", str),
        "trial": ("trial", str),
        target.unit: ("shown", target.show),
        "seeds": ("seed_text", str),
        "text": ("text_text", str),
        "from leader": ("difference_text", str),
        beside.unit: (beside.name, beside.show),
        "nats/char": ("val_nats_per_char", "{:.4f}".format),  # this and the next two: with `split: mainrun`
        "evaluate()": ("mainrun_nats_per_char", "{:.4f}".format),
        "coverage": ("mainrun_coverage", "{:.1%}".format),
        "best report": ("best_report", target.show),
        "tokens": ("tokens", units.count),
        "time": ("seconds", units.duration),
        "params": ("n_parameters", units.count),
        "memory": ("peak_memory_mb", units.memory),
        "status": ("state", str),
        "config": ("name", str),
    }


def _by_columns(study: Study, by: str, own_loss: bool) -> Columns:
    target = objective_of(study)
    losses: Columns = {
        "train loss": ("train_loss", units.score),
        "val loss": ("val_loss", units.score),
        f"test {target.scale_name}": ("test_text", str),
        "own train": ("train_objective_loss", units.score),
        "own val": ("val_objective_loss", units.score),
        "own test": ("test_objective_loss", units.score),
    }
    return {
        "#": ("rank", str),
        by: (by, str),
        target.unit: ("shown", target.show),
        "seeds": ("seed_text", str),
        "text": ("text_text", str),
        "from leader": ("difference_text", str),
        **{head: column for head, column in losses.items() if own_loss or not head.startswith("own")},
        "median": ("median", target.show),
        "full length": ("full_length", str),
        "trials": ("trials", str),
        "tokens": ("tokens", units.count),
        "trial": ("best_trial", str),
        "config": ("name", str),
    }


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


def _cell(row: Row, key: str, form: Format) -> str:
    value = row.get(key)
    return "" if value is None else form(value)
