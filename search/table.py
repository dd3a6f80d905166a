"""The leaderboard as text: a table for the terminal, Markdown, CSV, JSON, and the lines under it that a careful
reader wants: the entropy floor, rungs that were reached at different tokens, how well rungs foretold the end."""

from __future__ import annotations

import csv
import io
import json
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from search import agreement, units
from search.leaderboard import BROKEN, Row, best, groups, objective, objective_name, rows
from search.study import Study, Trial

UNITS = {"val_perplexity": "perplexity", "val_bits_per_byte": "bits/byte"}


def render(
    study: Study, by: str | None = None, limit: int | None = None, width: int | None = None, color: bool = False
) -> str:
    """The table and its notes. by: a config key, for the best of each value. width: of the terminal, or None."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heads, lines, left_out = _fit(*_cells(study, by, limit), width or 200)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        table.add_column(head, justify="left" if head in ("status", "config", by) else "right", no_wrap=True)
    for line in lines:
        table.add_row(*(Text(cell) for cell in line), style="green" if heads[0] == "#" and line[0] == "1" else None)
    out = io.StringIO()
    console = Console(file=out, width=width or 200, force_terminal=color, color_system="auto" if color else None)
    console.print(table)
    text = "\n".join(line.rstrip() for line in out.getvalue().splitlines())
    return "\n".join([text, "", *_below(study, left_out)]) + "\n"


def _fit(heads: list[str], lines: list[list[str]], left_out: int, width: int) -> tuple[list[str], list[list[str]], int]:
    """Without the columns that a narrow terminal has no room for, the least telling first."""
    for dropped in ("memory", "params", "on the way", "time", "bits/byte"):
        if sum(max(len(cell) for cell in column) + 2 for column in zip(heads, *lines, strict=True)) - 2 <= width:
            break
        if dropped in heads[:2] or dropped not in heads:
            continue
        at = heads.index(dropped)
        heads, lines = heads[:at] + heads[at + 1 :], [line[:at] + line[at + 1 :] for line in lines]
    return heads, lines, left_out


def markdown(study: Study, by: str | None = None, limit: int | None = 100) -> str:
    """leaderboard.md: the same table, with a heading."""
    heads, lines, left_out = _cells(study, by, limit)
    ruled = [heads, ["---" if head in ("status", "config", by) else "---:" for head in heads], *lines]
    table = ["| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in ruled]
    title = f"# {study.header.get('spec', {}).get('study', 'study')}"
    return "\n".join([title, "", *table, "", *(f"{line}  " for line in _below(study, left_out))]) + "\n"


def as_csv(study: Study, by: str | None = None) -> str:
    """All rows, plain numbers; empty where there is none."""
    table = groups(study, by) if by else rows(study)
    out = io.StringIO()
    writer = csv.DictWriter(out, list(dict.fromkeys(key for row in table for key in row)), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return out.getvalue()


def as_json(study: Study, by: str | None = None) -> str:
    """{trials: all rows, or groups: with `by`; rungs: how well each foretold the final order}; null where there is no
    number or no finite one."""
    found = {"groups": groups(study, by)} if by else {"trials": rows(study)}
    found["rungs"] = [asdict(row) for row in agreement.agreement(study)]
    plain = {
        name: [{key: _plain(value) for key, value in row.items()} for row in table] for name, table in found.items()
    }
    return json.dumps(plain, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _cells(study: Study, by: str | None, limit: int | None) -> tuple[list[str], list[list[str]], int]:
    columns = _by_columns(study, by) if by else _columns(study)
    table = groups(study, by) if by else rows(study)
    shown = table if limit is None else table[:limit]
    lines = [[_cell(row, key, form) for key, form in columns.values()] for row in _ranked(shown)]
    return list(columns), lines, len(table) - len(shown)


Format = Callable[[Any], str]
Columns = dict[str, tuple[str, Format]]


def _columns(study: Study) -> Columns:
    unit = UNITS[objective_name(study)]
    other = "bits/byte" if unit == "perplexity" else "perplexity"
    return {
        "#": ("rank", str),
        "trial": ("trial", str),
        unit: ("objective", _score),
        other: (f"val_{other.replace('/', '_per_')}" if other == "bits/byte" else "val_perplexity", _score),
        "on the way": ("best_on_the_way", _score),
        "tokens": ("tokens", units.count),
        "time": ("seconds", units.duration),
        "params": ("n_parameters", units.count),
        "memory": ("peak_memory_mb", units.memory),
        "status": ("state", str),
        "config": ("name", str),
    }


def _by_columns(study: Study, by: str) -> Columns:
    return {
        by: (by, str),
        UNITS[objective_name(study)]: ("objective", _score),
        "median": ("median", _score),
        "full length": ("full_length", str),
        "trials": ("trials", str),
        "tokens": ("tokens", units.count),
        "trial": ("best_trial", str),
        "config": ("name", str),
    }


def _ranked(table: list[Row]) -> list[Row]:
    return [
        {**row, "rank": place if row["objective"] is not None else None, "state": _state(row)}
        for place, row in enumerate(table, 1)
    ]


def _state(row: Row) -> str:
    status = str(row.get("status", ""))
    if status == "pruned" and row["rung"]:
        return f"pruned at {units.count(row['rung'])}"
    return status.replace("_", " ")


def _cell(row: Row, key: str, form: Format) -> str:
    value = row.get(key)
    return "" if value is None else form(value)


def _score(value: float) -> str:
    """Four digits or more: two trials that differ by 0.1 % must not look alike.

    >>> _score(3.21456), _score(12.3456), _score(1234.56), _score(1.5e7)
    ('3.215', '12.35', '1234.6', '1.5e+07')
    """
    if not math.isfinite(value) or abs(value) >= 100_000:
        return f"{value:.3g}"
    return f"{value:.{3 if value < 10 else 2 if value < 1000 else 1}f}"


def _below(study: Study, left_out: int) -> list[str]:
    more = [f"... and {left_out} more (--limit 0 shows all)"] if left_out else []
    return [
        *more,
        _counts(study),
        *cause_lines(study),
        *floor_lines(study),
        *spread_lines(study),
        *agreement.lines(study),
    ]


def _counts(study: Study) -> str:
    found = Counter(trial.status.replace("_", " ") for trial in study.trials.values())
    parts = [f"{number} {status}" for status, number in found.most_common()]
    return f"{len(study.trials)} trials: {', '.join(parts)}" if parts else "no trials yet"


def cause_lines(study: Study, most: int = 3) -> list[str]:
    """Why trials broke: the first few, a line each."""
    broken = [trial for trial in study.trials.values() if trial.status in BROKEN and trial.cause]
    lines = [f"trial {t.number} {t.status.replace('_', ' ')}: {_short(t.cause)}" for t in broken[:most]]
    return lines + ([f"... and {len(broken) - most} more broke (--format json has every cause)"] * (len(broken) > most))


def _short(cause: str) -> str:
    line = " ".join(cause.split())
    return line if len(line) <= 110 else line[:107] + "..."


def floor_lines(study: Study) -> list[str]:
    """Where the corpus's entropy is known: the floor, the leader's gap to it, and an alarm for whoever is under it.

    Bits per byte are the same for every tokenizer, perplexity is not.
    """
    floors = _floors(study)
    if not floors:
        return []
    each = [f"{_score(floor['val_perplexity'])} ({name})" for name, floor in floors.items()]
    first = next(iter(floors.values()))
    perplexity = ", ".join(each) if len(each) > 1 else _score(first["val_perplexity"])
    line = f"entropy floor: perplexity {perplexity}, {_score(first['val_bits_per_byte'])} bits/byte"
    gaps = {number: found for number, trial in study.trials.items() if (found := _gap(study, trial, floors))}
    leader = best(study)
    if leader is not None and leader.number in gaps:
        gap, ratio = gaps[leader.number]
        line += f"; the leader is {abs(gap):.3g} {'above' if gap >= 0 else 'BELOW'} it ({ratio:.4g} × the floor)"
    under = ", ".join(str(number) for number, (low, _) in sorted(gaps.items()) if low < 0)
    alarm = f"WARNING: trial {under} is under the floor: nothing honest can be; look for a leak"
    return [line, alarm] if under else [line]


def _floors(study: Study) -> dict[str, dict[str, float]]:
    """By tokenizer."""
    data = study.header.get("data") or {}
    each = {name: about.get("floor") for name, about in (data.get("tokenizers") or {}).items()}
    each = each or {str(data.get("tokenizer")): data.get("floor")}
    return {name: floor for name, floor in each.items() if floor}


def _gap(study: Study, trial: Trial, floors: dict[str, dict[str, float]]) -> tuple[float, float] | None:
    """How far a trial's objective is above its floor, and how many times the floor it is."""
    value, floor = objective(study, trial), floors.get(str(trial.config.get("tokenizer")))
    if value is None or floor is None:
        return None
    low = floor[objective_name(study)]
    return value - low, value / low


def spread_lines(study: Study) -> list[str]:
    """Where trials reached one rung at different true tokens (batch sizes differ), how far apart."""
    found: dict[int, list[int]] = {}
    for trial in study.trials.values():
        for report in trial.reports:
            if report["rung"] is not None:
                found.setdefault(report["rung"], []).append(report["tokens"])
    spread = [
        f"{units.count(rung)} at {min(tokens):,}–{max(tokens):,}"
        for rung, tokens in sorted(found.items())
        if min(tokens) < max(tokens)
    ]
    return [f"rungs were reached at different tokens, as batch sizes differ: {'; '.join(spread)}"] if spread else []
