"""The report's charts of training: learning curves, trials at rungs, timeline of workers. Pure, to SVG."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from markupsafe import Markup

from search.report.curves import Line, of_trials
from search.report.svg import Scale, frame, join, mark, shorten, svg, tag
from search.report.svg import line as polyline
from search.report.trial_marks import ENDS, Shown, label, shown
from search.results.survival import Row, survival
from search.results.timeline import Bar, Session, sessions
from search.study.scores import objective_of
from search.study.study import Study
from trainer import units


def curves(study: Study, width: int) -> Markup | None:
    """Validation loss against tokens, a line per searched trial, the leader on top; None without reports.

    All points of a line are of the same fixed subset of the validation text, the last one included.
    """
    chart = of_trials(study)
    if chart is None:
        return None
    drawn = {line.trial: line for line in chart.lines}
    lines = [(trial, drawn[trial.number]) for trial in shown(study) if trial.number in drawn]
    lines = [(trial, line) for trial, line in lines if line.curve.val]
    lines.sort(key=lambda pair: (pair[0].look == "lead", pair[0].value is not None))
    if not lines:
        return None
    height, floor = 420 if width > 500 else 300, chart.floor
    low, high = _span([value for _, line in lines for _, value in line.curve.val], floor)
    ends = [x for _, line in lines for x, _ in line.curve.val]
    x = Scale(min(0, *ends), max(ends), 48, width - 12, form=units.count)
    y = Scale(low, high, height - 44, 22)
    parts = [frame(x, y, "tokens", f"validation loss, {chart.unit}", 8 if width > 500 else 5)]
    if floor is not None:
        parts.append(polyline([(x.start, y(floor)), (x.end, y(floor))], f"entropy floor {floor:.4g}", class_="floor"))
        parts.append(tag("text", "entropy floor", x=x.start + 6, y=y(floor) - 5, class_="floor-text"))
    for trial, line in lines:
        parts.append(_curve(trial, line, [(x(tokens), y(value)) for tokens, value in line.curve.val]))
    return svg(width, height, "learning curves", *parts)


def _curve(trial: Shown, line: Line, points: list[tuple[float, float]]) -> Markup:
    end = mark(ENDS[line.ending], *points[-1], 3.5, trial.label, class_="end")
    return tag("g", polyline(points, trial.label, class_="curve"), end, class_=trial.look, data_t=trial.number)


def _span(values: list[float], floor: float | None) -> tuple[float, float]:
    """The y limits: from the least to the greatest value, at most 1.5 × the 90 % quantile.

    The cap keeps diverged trials from flattening the others.
    """
    ranked = sorted(values)
    high = min(ranked[-1], 1.5 * ranked[int(0.9 * (len(ranked) - 1))])
    low = min(ranked[0], *([] if floor is None else [floor]), high)
    pad = 0.1 * (high / 2 - low / 2) or 0.1
    return max(low - pad, -sys.float_info.max), min(high + pad, sys.float_info.max)


def rungs(study: Study, width: int) -> Markup | None:
    """Each rung as a strip of its trials' values, marked by decision; None where no trial reached a rung."""
    rows = [row for row in survival(study) if row.rung is not None and row.value]
    if not rows:
        return None
    looks = {trial.number: trial for trial in shown(study)}
    values = [value for row in rows for number, value in row.value.items() if number in looks]
    if not values:
        return None
    step = 54
    height = 30 + step * len(rows) + 40
    log = min(values) > 0
    low, high = (min(values), max(values)) if not log else (min(values) / 1.03, max(values) * 1.03)
    x = Scale(low, high, 60, width - 14, log=log)
    bottom = height - 44
    parts = [tag("path", d=f"M{x.start:.1f} {bottom}H{x.end:.1f}", class_="axis")]
    for at, text in x.ticks(8 if width > 500 else 4):
        parts.append(tag("path", d=f"M{at:.1f} {bottom}V12", class_="grid"))
        parts.append(tag("text", text, x=at, y=bottom + 16, text_anchor="middle"))
    title = f"{objective_of(study).unit} at the rung, on the subset"
    parts.append(tag("text", title, x=(x.start + x.end) / 2, y=bottom + 34, text_anchor="middle", class_="title"))
    for place, row in enumerate(rows):
        parts.append(_strip(row, looks, x, 12 + step * (place + 0.5)))
    return svg(width, height, "trials at each rung", *parts)


def _strip(row: Row, looks: dict[int, Shown], x: Scale, y: float) -> Markup:
    refused = {*row.left["stopped"], *row.left["paused"]}
    parts = [tag("text", units.count(row.rung or 0), x=x.start - 8, y=y + 4, text_anchor="end")]
    parts.append(tag("path", d=f"M{x.start:.1f} {y:.1f}H{x.end:.1f}", class_="grid"))
    for number, value in sorted(row.value.items(), key=lambda pair: -pair[1]):
        if number not in looks:
            continue
        trial = looks[number]
        fate = "stopped here" if number in refused else "continued"
        cutoff = f" (cutoff then {units.score(row.cutoff[number])})" if number in row.cutoff else ""
        exempt = ", exempt from being stopped" if trial.trial.exempt else ""
        tooltip = f"{trial.label}\n{units.score(value)} here: {fate}{cutoff}{exempt}"
        shape = "cross" if number in refused else "diamond" if trial.trial.exempt else "circle"
        look = "cut" if number in refused else "lead" if trial.look == "lead" else "q2"
        shift = 9.0 * (number % 3 - 1)  # px, so that neighbours do not hide each other
        parts.append(mark(shape, x(value), y + shift, 4.5, tooltip, class_=look, data_t=number))
    return join(parts)


_BAR = 22  # px, height of a worker's row
_BREAK = 8  # px between two drivers


def timeline(study: Study, width: int) -> Markup | None:
    """Trials on workers against wall time, drivers side by side; gaps are idle. None before the first trial."""
    drivers = [session for session in sessions(study) if session.bars]
    if not drivers:
        return None
    rows = max(session.rows for session in drivers)
    start, room = 30.0, width - 30.0 - 10 - _BREAK * (len(drivers) - 1)
    total = sum(session.wall for session in drivers) or 1.0
    parts: list[Markup] = []
    for row in range(rows):
        parts.append(tag("text", str(row + 1), x=start - 8, y=row * _BAR + 17, text_anchor="end"))
    for session in drivers:
        unit = next(unit for unit in (3600.0, 60.0, 1.0) if total > 2 * unit or unit == 1)
        scale = Scale(0, session.wall, start, start + room * session.wall / total, unit=unit, form=units.duration)
        parts += _session(study, session, scale)
        start = scale.end + _BREAK
    bottom = rows * _BAR + 34
    title = (
        "wall time" if len(drivers) == 1 else f"wall time of {len(drivers)} drivers, the pauses between them left out"
    )
    parts.append(tag("text", title, x=width / 2, y=bottom, text_anchor="middle", class_="title"))
    return svg(width, bottom + 8, "timeline of workers", *parts)


def _session(study: Study, session: Session, scale: Scale) -> Iterable[Markup]:
    for row in range(session.rows):
        box = {"x": scale.start, "y": row * _BAR + 3, "width": scale.end - scale.start, "height": _BAR - 4}
        yield tag("rect", **box, class_="idle")
    for at, text in scale.ticks(max(1, round((scale.end - scale.start) / 90))):
        yield tag("path", d=f"M{at:.1f} {session.rows * _BAR + 1}v4", class_="axis")
        if scale.end - scale.start > 40:
            yield tag("text", text, x=at, y=session.rows * _BAR + 18, text_anchor="middle")
    for bar in session.bars:
        yield _bar(study, bar, scale)


def _bar(study: Study, bar: Bar, scale: Scale) -> Markup:
    trial = study.trials[bar.trial]
    left, right = scale(bar.begin), scale(bar.end)
    on = f" on {bar.node}" if bar.node else ""
    tooltip = f"{label(study, trial)}\n{units.duration(bar.end - bar.begin)}{on}, {bar.status.replace('_', ' ')}"
    look = "again" if trial.of is not None else _TIME_LOOKS.get(bar.status, "broke")
    box = {"x": left, "y": bar.row * _BAR + 3, "width": max(1.0, right - left - 0.8), "height": _BAR - 4, "rx": 2}
    number = str(bar.trial)
    inside = tag("text", number, x=(left + right) / 2, y=bar.row * _BAR + 17, text_anchor="middle")
    parts = [tag("title", tooltip), tag("rect", **box)]
    if right - left > 8 * len(shorten(number, 6)) + 2:
        parts.append(inside)
    return tag("g", *parts, class_=f"stint {look}", data_t=bar.trial)


_TIME_LOOKS = {
    **dict.fromkeys(("completed", "early_stopped"), "done"),
    **dict.fromkeys(("pruned", "paused"), "stopped"),
    **dict.fromkeys(("running", "interrupted"), "lost"),
}
