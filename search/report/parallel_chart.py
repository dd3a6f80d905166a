"""The report's parallel coordinates: a line per trial across all parameters to its objective. Pure, to SVG."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from search.report.space_charts import axis_of, jitter, objective_axis, place, space_of
from search.report.svg import Axis, join, line, shorten, svg, tag
from search.report.trial_marks import Shown, shown
from search.study.scores import objective_of
from search.study.study import Study

_INSET = 30  # px at the start of an axis, for trials without that conditional parameter


@dataclass(frozen=True)
class _Ruler:
    """One axis. at: pixel across; begin, end: pixels of its line; axis: its scale, None where no trial has a value.

    optional: of a conditional parameter; upright: vertical; gap: px to the next axis.
    """

    name: str
    at: float
    begin: float
    end: float
    axis: Axis | None
    optional: bool
    upright: bool
    gap: float

    def point(self, along: float) -> tuple[float, float]:
        return (self.at, along) if self.upright else (along, self.at)


def parallel(study: Study, width: int) -> Markup | None:
    """The chart, None for an empty space or no trials. The line of a trial without an objective ends before that axis.

    Above 500 px the axes are vertical, side by side; below they are horizontal, one under the other. A trial without a
    conditional parameter crosses its axis at the start, marked with a dash.
    """
    space, trials = space_of(study), shown(study)
    if not space or not trials:
        return None
    upright = width > 500
    gap = (width - 150) / len(space) if upright else 70.0
    height = 360 if upright else round(70 * len(space) + 80)
    begin, end = (height - 14.0, 44.0) if upright else (34.0, width - 40.0)
    inset = -_INSET if upright else _INSET
    rulers = []
    for at, (name, parameter) in enumerate(space.items()):
        optional = bool(parameter.when)
        axis = axis_of(name, parameter, begin + inset * optional, end)
        rulers.append(_Ruler(name, 56 + gap * at, begin, end, axis, optional, upright, gap))
    last = objective_axis(study, trials, begin, end)
    unit = objective_of(study).unit
    rulers.append(_Ruler(unit, 56 + gap * len(space), begin, end, last, False, upright, gap))
    return svg(
        width,
        height,
        "parallel coordinates",
        *(_draw_trial(trial, rulers) for trial in trials),
        *map(_draw_ruler, rulers),
    )


def _draw_trial(trial: Shown, rulers: list[_Ruler]) -> Markup:
    points = []
    for ruler in rulers[:-1]:
        along = ruler.begin
        if ruler.axis is not None and ruler.name in trial.trial.point:
            along = place(ruler.axis, trial.trial.point[ruler.name]) + jitter(ruler.axis, trial.number, 0.35)
        points.append(ruler.point(along))
    if trial.value is not None and rulers[-1].axis is not None:
        points.append(rulers[-1].point(place(rulers[-1].axis, trial.value)))
    return tag("g", line(points, trial.label, class_="curve"), class_=trial.look, data_t=trial.number)


def _draw_ruler(ruler: _Ruler) -> Markup:
    begin, end = ruler.point(ruler.begin), ruler.point(ruler.end)
    parts = [line([begin, end], class_="axis")]
    ticks = ruler.axis.ticks(5 if ruler.upright else 4) if ruler.axis is not None else []
    for along, text in [*ticks, *([(ruler.begin, "–")] if ruler.optional else [])]:
        x, y = ruler.point(along)
        if ruler.upright:
            parts.append(tag("path", d=f"M{x - 3:.1f} {y:.1f}h6", class_="axis"))
            parts.append(tag("text", shorten(text, max(6, int(ruler.gap / 8))), x=x + 6, y=y + 4, class_="halo"))
        else:
            parts.append(tag("path", d=f"M{x:.1f} {y - 3:.1f}v6", class_="axis"))
            parts.append(tag("text", shorten(text, 12), x=x, y=y + 17, text_anchor="middle", class_="halo"))
    tooltip = tag("title", ruler.name)
    if ruler.upright:
        name = shorten(ruler.name, max(6, int(ruler.gap / 7)))
        parts.append(tag("text", tooltip, name, x=ruler.at, y=24, text_anchor="middle", class_="title halo"))
    else:
        parts.append(tag("text", tooltip, shorten(ruler.name, 40), x=4, y=ruler.at - 14, class_="title halo"))
    return join(parts)
