"""The PNG figures: losses against tokens, perplexity by document, reliability. The only file that imports matplotlib.

Figures are made without pyplot, whose state is shared by all threads. They are 960 pixels wide, so that text is legible
on a phone. Lines differ in colour (Okabe and Ito's palette for colour-blind readers), in dashes and in markers, so that
a print in grey is legible as well.
"""

from __future__ import annotations

import math
import textwrap
import warnings
from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from search.report.curves import Chart, Line
from trainer import curve, units
from trainer.scores import Scores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

WIDTH, DPI = 6.4, 150  # inches, dots per inch
BASE, SMALL = 11, 8.5  # points
BLACK, GREY = "#000000", "#8c8c8c"
# colour, dashes, marker; the first is the leader's
STYLES = (
    (BLACK, "-", "o"),
    ("#D55E00", (0, (5, 1.5)), "s"),
    ("#0072B2", (0, (1, 1)), "^"),
    ("#009E73", (0, (4, 1.5, 1, 1.5)), "D"),
    ("#CC79A7", (0, (8, 2)), "v"),
)
_ENDS = {"pruned": ("x", "stopped or paused at a rung"), "broken": ("P", "broke"), "going": (">", "not ended")}
_STAR: dict[str, Any] = {"marker": "*", "markersize": 12, "linestyle": "none", "markeredgecolor": "white", "zorder": 5}
_DASH: dict[str, Any] = {"marker": "_", "markersize": 14, "linestyle": "none", "zorder": 6}
Style = tuple[str, Any, str]


def losses(chart: Chart) -> Figure:
    """Validation loss of every line; below it training loss on the same scale, where the chart has any."""
    trained = any(line.curve.train for line in chart.lines)
    figure = _figure(8.4 if trained else 5.6)
    above, *below = np.atleast_1d(figure.subplots(1 + trained, 1, sharex=True, sharey=True))
    for line, style in _styled(chart):
        _draw_line(above, line, line.curve.val, style)
        _draw_end(above, line, style)
        for axes in below:
            _draw_line(axes, line, line.curve.train, style)
    _set_heading(above, "validation text, a fixed subset of it" if trained else "")
    above.set_ylabel(f"validation loss ({chart.unit})")
    for axes in below:
        _set_heading(axes, "training text, a fixed subset of it")
        axes.set_ylabel(f"training loss ({chart.unit})")
    _mark_overfitting(above, chart.lines[0])
    _set_limits(above, chart)
    _label_tokens([above, *below][-1])
    for axes in (above, *below):
        _draw_floor(axes, chart)
    _finish(figure, chart.title, [above, *below], _legend(chart))
    return figure


def training_and_validation(chart: Chart) -> Figure:
    """Training and validation loss of the chart's first line in one panel, with a sentence on over-fitting."""
    figure = _figure(5.4)
    axes = figure.subplots()
    line = chart.lines[0]
    for points, style, label in (
        (line.curve.train, STYLES[1], "training text, a fixed subset of it"),
        (line.curve.val, STYLES[0], "validation text, a fixed subset of it"),
    ):
        color, dashes, marker = style
        axes.plot(*_xy(points), color=color, linestyle=dashes, marker=marker, markersize=4, label=label)
    if line.curve.end is not None:
        axes.plot(*line.curve.end, **_STAR, color=BLACK, label="validation text, all of it")
    _draw_seeds(axes, line)
    _mark_overfitting(axes, line)
    _draw_floor(axes, chart)
    axes.set_ylabel(f"loss ({chart.unit})")
    _label_tokens(axes)
    _set_heading(axes, curve.sentence(line.curve, units.count))
    _finish(figure, chart.title, [axes])
    return figure


def documents(title: str, scores: Scores) -> Figure:
    """The cumulative distribution of perplexity over the validation documents, with quantiles and the pooled value."""
    figure = _figure(5.2)
    axes = figure.subplots()
    nats = np.sort(scores.nll / np.maximum(scores.tokens, 1))
    share = np.arange(1, len(nats) + 1) / len(nats)
    axes.step(np.exp(nats), 100 * share, where="post", color=BLACK, label=f"{len(nats):,} documents")
    for at in (0.05, 0.25, 0.5, 0.75, 0.95):
        value = float(np.exp(np.quantile(nats, at)))
        axes.plot(value, 100 * at, marker="o", markersize=6, color=BLACK)
        words = f"{at:.0%}: {units.score(value)}"
        room = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # keeps the dotted line out of the text
        where: dict[str, Any] = {"textcoords": "offset points", "va": "top", "fontsize": SMALL, "bbox": room}
        axes.annotate(words, (value, 100 * at), (7, -3), **where)  # below the rising curve
    pooled = math.exp(min(float(scores.nll.sum() / scores.tokens.sum()), 700))
    label = f"of all tokens together: {units.score(pooled)}"
    axes.axvline(pooled, color=STYLES[2][0], linestyle=STYLES[2][1], label=label)
    axes.set_xscale("log")
    _plain_numbers(axes)
    axes.set(xlabel="perplexity of a document (log scale)", ylabel="documents at or under it (%)", ylim=(0, 101))
    _finish(figure, title, [axes])
    return figure


def reliability(title: str, scores: Scores, temperature: float | None) -> Figure:
    """A reliability diagram, as trained and after temperature scaling; below it the share of targets per bin."""
    figure = _figure(7.2)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    above.plot((0, 1), (0, 1), color=GREY, linewidth=1, linestyle=(0, (2, 2)), label="as sure as right")
    raw = (scores.bin_count, scores.bin_confidence, scores.bin_accuracy)
    _draw_bins(above, below, raw, STYLES[0], f"as it is: expected calibration error {scores.ece:.3f}")
    if scores.tempered_count.sum() and temperature is not None:
        tempered = (scores.tempered_count, scores.tempered_confidence, scores.tempered_accuracy)
        _draw_bins(
            above, below, tempered, STYLES[1], f"with temperature {temperature:.3f}, on text it was not fitted on"
        )
    above.set(ylabel="accuracy: the likeliest token was right", xlim=(0, 1), ylim=(0, 1))
    below.set(xlabel="confidence: probability of the likeliest token", ylabel="targets (%)", ylim=(0, None))
    above.text(0.04, 0.93, "less sure than right", fontsize=SMALL)
    above.text(0.96, 0.04, "surer than right", fontsize=SMALL, ha="right")
    _finish(figure, title, [above, below])
    return figure


def import_all() -> None:
    """Import what drawing and writing a figure need, in advance: 0.8 s."""
    import matplotlib.backends.backend_agg
    import matplotlib.figure  # noqa: F401


def png(figure: Figure) -> bytes:
    """A figure as a PNG file; equal figures give equal bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    file = BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # a sign that the font lacks is drawn as a box
        figure.savefig(file, format="png", dpi=DPI, metadata={"Software": None})
    return file.getvalue()


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained", facecolor="white")


def _styled(chart: Chart) -> list[tuple[Line, Style | None]]:
    """(line, style) in drawing order: lines without a name first (style None), the chart's first line last, on top."""
    styles = iter(STYLES)
    return [(line, next(styles, None) if line.named else None) for line in chart.lines][::-1]


def _draw_line(axes: Axes, line: Line, points: curve.Points, style: Style | None) -> None:
    color, dashes, marker = style or (GREY, "-", "")
    width = 0.7 if style is None else 2.2 if line.leader else 1.5
    axes.plot(*_xy(points), color=color, linestyle=dashes, marker=marker, markersize=4, linewidth=width)
    if points and line.ending in _ENDS:
        axes.plot(*points[-1], color=color, linestyle="none", marker=_ENDS[line.ending][0], markersize=6)


def _draw_end(axes: Axes, line: Line, style: Style | None) -> None:
    """Mark the value on the full split; it is not joined to the curve, which is of the subset."""
    if line.curve.end is not None:
        axes.plot(*line.curve.end, **_STAR, color=style[0] if style else GREY)
    if line.leader:
        _draw_seeds(axes, line)


def _draw_seeds(axes: Axes, line: Line) -> None:
    if line.seeds and line.curve.end is not None:
        where = [line.curve.end[0]] * len(line.seeds)
        axes.plot(where, line.seeds, **_DASH, color=BLACK, label=_seeds_label(line))


def _seeds_label(line: Line) -> str:
    runs = "a run" if len(line.seeds) == 1 else f"{len(line.seeds)} runs"
    return f"the same, of {runs} of the leader with {'a fresh seed' if len(line.seeds) == 1 else 'fresh seeds'}"


def _xy(points: curve.Points) -> tuple[list[int], list[float]]:
    return [at for at, _ in points], [value for _, value in points]


def _draw_floor(axes: Axes, chart: Chart) -> None:
    if chart.floor is not None:
        axes.axhline(chart.floor, color=GREY, linewidth=1.2, linestyle=(0, (6, 2, 1, 2)))
        words = f"entropy of the text, {chart.floor:.3f}: the least possible"
        axes.text(0.01, chart.floor, words, fontsize=SMALL, va="bottom", transform=axes.get_yaxis_transform())


def _mark_overfitting(axes: Axes, line: Line) -> None:
    at = curve.overfitting(line.curve) if line.leader else None
    if at is not None:
        axes.axvline(at, color=BLACK, linewidth=1, linestyle=(0, (1, 2)))
        right = at > 0.6 * line.curve.length
        where: dict[str, Any] = {
            "transform": axes.get_xaxis_transform(),
            "ha": "right" if right else "left",
            "va": "top",
        }
        axes.text(at, 0.98, " over-fitting from here ", fontsize=SMALL, **where)


def _set_limits(axes: Axes, chart: Chart) -> None:
    """Set the y limits to hold all named lines and 90 % of the first values, so that a trial that diverged does not
    compress the others."""
    named = [value for line in chart.lines if line.named for _, value in (*line.curve.val, *line.curve.train)]
    first = [line.curve.val[0][1] for line in chart.lines if line.curve.val]
    high = max(float(np.quantile(first, 0.9)) if first else -math.inf, *named)
    every = [value for line in chart.lines for _, value in (*line.curve.val, *line.curve.train)]
    ends = [line.curve.end[1] for line in chart.lines if line.curve.end is not None]
    low = min(*every, *ends, chart.floor if chart.floor is not None else math.inf)
    pad = 0.05 * (high - low) or 0.1
    axes.set_ylim(low - pad, high + pad)


def _legend(chart: Chart) -> list[Line2D]:
    """Legend entries for the styles and marks that the chart uses."""
    from matplotlib.lines import Line2D

    handles = []
    for line, style in _styled(chart)[::-1]:
        if style is not None:
            color, dashes, marker = style
            width = 2.2 if line.leader else 1.5
            look = {"color": color, "linestyle": dashes, "marker": marker, "markersize": 4, "linewidth": width}
            handles.append(Line2D([], [], label=_short(line.label), **look))
    others = sum(not line.named for line in chart.lines)
    if others:
        handles.append(Line2D([], [], color=GREY, linewidth=0.7, label=f"{others} more"))
    if any(line.curve.end is not None for line in chart.lines):
        handles.append(Line2D([], [], **_STAR, color=GREY, label="validation text, all of it: the objective's"))
    handles += [
        Line2D([], [], **_DASH, color=BLACK, label=_seeds_label(line)) for line in chart.lines[:1] if line.seeds
    ]
    for ending, (marker, words) in _ENDS.items():
        if any(line.ending == ending for line in chart.lines):
            handles.append(Line2D([], [], color=GREY, linestyle="none", marker=marker, markersize=6, label=words))
    return handles


def _draw_bins(above: Axes, below: Axes, bins: tuple[np.ndarray, ...], style: Style, label: str) -> None:
    count, confidence, accuracy = (values[bins[0] > 0] for values in bins)
    color, dashes, marker = style
    look = {"color": color, "linestyle": dashes, "marker": marker, "markersize": 5}
    above.plot(confidence, accuracy, **look, label=label)
    below.plot(confidence, 100 * count / count.sum(), **look)


def _set_heading(axes: Axes, text: str) -> None:
    axes.set_title("\n".join(textwrap.wrap(_plain(text), 95)), fontsize=SMALL, loc="left")


def _label_tokens(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axes.set_xlabel("tokens trained on")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: units.count(value)))


def _plain_numbers(axes: Axes) -> None:
    """Label a logarithmic axis 1.5, 2, 3, where matplotlib would write 10^0.3."""
    from matplotlib.ticker import AutoLocator, FuncFormatter, LogLocator, NullFormatter

    low, high = axes.get_xlim()
    decades = math.log10(high / low)
    subs = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8) if decades < 0.7 else (1, 2, 3, 5) if decades < 2 else (1,)
    axes.xaxis.set_major_locator(AutoLocator() if decades < 0.3 else LogLocator(subs=subs))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _finish(figure: Figure, title: str, panels: Sequence[Axes], legend: list[Line2D] | None = None) -> None:
    figure.suptitle(_plain(title), fontsize=BASE + 1)
    for axes in panels:
        axes.grid(color="#e0e0e0", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.tick_params(labelsize=BASE - 1)
        axes.xaxis.label.set_fontsize(BASE)
        axes.yaxis.label.set_fontsize(BASE)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
    handles = panels[0].get_legend_handles_labels()[0] if legend is None else legend
    figure.legend(handles=handles, loc="outside lower left", fontsize=SMALL, frameon=False, handlelength=3.2)


def _short(text: str, most: int = 90) -> str:
    return _plain(text if len(text) <= most else text[: most - 3] + "...")


def _plain(text: str) -> str:
    """Text with dollar signs escaped, as matplotlib reads them as the start of a formula."""
    return text.replace("$", r"\$")
