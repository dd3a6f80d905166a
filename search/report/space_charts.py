"""The report's charts of the search space: importance, slices, pairs; axes of parameters. Pure, to SVG."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from itertools import combinations
from typing import Any

from markupsafe import Markup

from search.report.svg import Axis, Choices, Scale, frame, mark, shorten, svg, tag
from search.report.trial_marks import Shown, shown
from search.results.importance import Importance
from search.spec.parameter import Parameter
from search.spec.points import Space, target
from search.spec.space import readable
from search.study.scores import objective_of
from search.study.study import Study
from trainer import units

SMALL = 340  # px, the width of a small chart
_TINY, _HUGE = sys.float_info.min, sys.float_info.max
_TITLE = 40  # letters of an axis's title; the whole name is in the chart's
_PAIRS = 4  # parameters whose pairs are drawn: six charts


def space_of(study: Study) -> Space:
    """The study's search space; empty for a spec of another release that this one cannot check."""
    return {} if study.header.spec_reading.refused else study.header.spec.space


def axis_of(name: str, parameter: Parameter, start: float, end: float) -> Axis:
    if parameter.choice is not None:
        return Choices([_name(value) for value in parameter.choice], start, end)
    low, high = parameter.log or parameter.uniform or [0, 1]
    form: Callable[[float], str] = units.count if target(name, parameter) == "max_tokens" else _short
    return Scale(float(low), float(high), start, end, parameter.log is not None, form=form)


def _short(value: float) -> str:
    """A number as in a trial's name: 1e-3 rather than 0.001."""
    if value and not 0.01 <= abs(value) < 10_000:
        digits, exponent = f"{value:.2e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:g}"


def _name(value: Any) -> str:
    if isinstance(value, dict):
        return readable(value)
    return value if isinstance(value, str) else json.dumps(value)


def place(axis: Axis, value: Any) -> float:
    if isinstance(axis, Choices):
        name = _name(value)
        return axis(name) if name in axis.names else (axis.start + axis.end) / 2
    return axis(float(value))


def jitter(axis: Axis, number: int, share: float = 0.5) -> float:
    """A deterministic shift in px that separates the trials of one choice; 0 on a range."""
    if isinstance(axis, Scale):
        return 0.0
    step = abs(axis.end - axis.start) / max(1, len(axis.names))
    # the golden ratio spreads consecutive numbers evenly
    return share * min(step, 60) * ((number * 0.618034) % 1 - 0.5)


def objective_axis(study: Study, trials: list[Shown], start: float, end: float) -> Scale | None:
    values = [trial.value for trial in trials if trial.value is not None]
    if not values:
        return None
    low, high = min(values), max(values)
    if objective_of(study).log and low > 0:
        spread = max(math.exp(0.05 * (math.log(high) - math.log(low))), 1.005)
        return Scale(max(low / spread, _TINY), min(high * spread, _HUGE), start, end, True)
    spread = 0.05 * (high / 2 - low / 2) * 2
    return Scale(max(low - spread, -_HUGE), min(high + spread, _HUGE), start, end)


def bars(importance: Importance, width: int) -> Markup | None:
    """Importance by parameter, each with a mark at the level of shuffled values; None without shares."""
    if not importance.share:
        return None
    height = 26 * len(importance.share) + 8
    x = Scale(0, max(*importance.share.values(), *importance.luck.values()), 0.3 * width + 20, width - 46)
    parts = []
    for row, (name, share) in enumerate(importance.share.items()):
        y = 26 * row + 4
        real = share > importance.luck[name]
        tooltip = f"{name}: {share:.0%}; shuffled values stay under {importance.luck[name]:.0%} in 95 of 100 cases"
        text = tag(
            "text",
            tag("title", name),
            shorten(name, int((x.start - 8) / 7)),
            x=x.start - 8,
            y=y + 15,
            text_anchor="end",
        )
        box = tag("rect", tag("title", tooltip), x=x.start, y=y, width=max(1.0, x(share) - x.start), height=20, rx=2)
        luck = tag("path", d=f"M{x(importance.luck[name]):.1f} {y - 1}v22", class_="luck")
        value = tag("text", f"{share:.0%}", x=max(x(share), x(importance.luck[name])) + 6, y=y + 15)
        parts.append(tag("g", text, box, luck, value, class_="real" if real else "unreal"))
    return svg(width, height, "parameter importance", *parts)


def slices(study: Study) -> list[Markup]:
    """A chart per parameter: objective against value; trials without an objective are a row of marks on top."""
    space, trials = space_of(study), shown(study)
    height = 250
    y = objective_axis(study, trials, height - 54, 52)
    if y is None:
        return []
    charts = []
    for name, parameter in space.items():
        x = axis_of(name, parameter, 52, SMALL - 14)
        parts = [frame(x, y, shorten(name, _TITLE), objective_of(study).unit, 5)]
        for trial in trials:
            if name not in trial.trial.point:
                continue
            at = place(x, trial.trial.point[name]) + jitter(x, trial.number)
            up = 34.0 if trial.value is None else y(trial.value)
            parts.append(_mark(trial, at, up))
        charts.append(svg(SMALL, height, f"objective against {name}", *parts))
    return charts


def _mark(trial: Shown, x: float, y: float) -> Markup:
    return mark(trial.mark, x, y, trial.size, trial.label, class_=trial.look, data_t=trial.number)


def pairs(study: Study, importance: Importance) -> list[Markup]:
    """A chart per pair of the most important parameters (without importances the first); better trials are larger."""
    space, trials = space_of(study), shown(study)
    ranked = sorted(space, key=lambda name: -importance.share.get(name, 0.0))[:_PAIRS]
    if not any(trial.value is not None for trial in trials):
        return []
    charts = []
    height = 270
    for first, second in combinations([name for name in space if name in ranked], 2):
        both = [trial for trial in trials if first in trial.trial.point and second in trial.trial.point]
        if len({json.dumps(trial.trial.point[name], sort_keys=True) for name in (first, second) for trial in both}) < 3:
            continue  # no trial has both, or both are constant where it has
        y = axis_of(second, space[second], height - 54, 24)
        x = axis_of(first, space[first], 96 if isinstance(y, Choices) else 52, SMALL - 14)
        parts = [frame(x, y, shorten(first, _TITLE), shorten(second, _TITLE), 5)]
        for trial in both:
            across = place(x, trial.trial.point[first]) + jitter(x, trial.number)
            up = place(y, trial.trial.point[second])
            parts.append(_mark(trial, across, up + jitter(y, trial.number * 7 + 3)))
        charts.append(svg(SMALL, height, f"{second} against {first}", *parts))
    return charts
