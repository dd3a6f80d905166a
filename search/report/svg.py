"""Building blocks of inline SVG charts: scales, axes, marks. Pure; independent of studies.

Colours are classes of the page's style sheet, so that one picture serves light, dark and print. markupsafe escapes all
text and attributes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

FONT = 12  # px
_WIDE = 6.6  # approximate px per letter at that size
_STEPS = (1.0, 2.0, 5.0, 10.0, 20.0)
_MANTISSAS = ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))


def tag(name: str, *children: Any, **attributes: Any) -> Markup:
    """An SVG element. Attributes: class_ is class, stroke_width is stroke-width; None is left out, floats to 0.1."""
    texts = [
        f' {key.rstrip("_").replace("_", "-")}="{escape(_number(value) if isinstance(value, float) else value)}"'
        for key, value in attributes.items()
        if value is not None
    ]
    return Markup(f"<{name}{''.join(texts)}>{join(children)}</{name}>")


def join(parts: Iterable[Any]) -> Markup:
    return Markup("").join(parts)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def shorten(text: str, most: int) -> str:
    """The text cut to at most `most` letters, the last an ellipsis."""
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"


@dataclass(frozen=True)
class Scale:
    """A map from numbers low..high to pixels start..end; logarithmic with log (low > 0). form: formats a tick."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False
    unit: float = 1.0  # ticks are round multiples of it: 60 for seconds that are shown as minutes
    form: Callable[[float], str] = lambda value: f"{value:g}"

    def __call__(self, value: float) -> float:
        """The pixel of a number; numbers beyond the ends are clipped."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, self._clipped(value)))
        width = high / 2 - low / 2  # halved, as the whole may exceed the largest number
        share = (at / 2 - low / 2) / width if width > 0 else 0.5
        return self.start + share * (self.end - self.start)

    def _clipped(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        """(pixel, text) of round numbers within the ends: as many as possible, at most `most`."""
        values = self._decades(most) if self.log else self._steps(most)
        return [(self(value), self.form(value)) for value in values]

    def _steps(self, most: int) -> list[float]:
        low, high = self.low / self.unit, self.high / self.unit
        width = high / most - low / most
        size = 10.0 ** math.floor(math.log10(width)) if width > 0 else 0.0
        if not size:  # nothing between the ends
            return [self.low]
        for step in (size * factor for factor in _STEPS):
            first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
            if last - first + 1 <= most:
                return [float(f"{place * step * self.unit:.12g}") for place in range(first, last + 1)]
        return [self.low, self.high]

    def _decades(self, most: int) -> list[float]:
        low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
        for every in (1, 2, 3, 5):  # label every n-th decade where there are too many
            for mantissas in reversed(_MANTISSAS if every == 1 else _MANTISSAS[:1]):
                values = [float(f"{m}e{d}") for d in range(low, high + 1, every) for m in mantissas]
                inside = [v for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9)]
                if 2 <= len(inside) <= most:
                    return inside
        return self._steps(most)


@dataclass(frozen=True)
class Choices:
    """A map from named values to equally spaced pixels."""

    names: Sequence[str]
    start: float
    end: float

    def __call__(self, value: str) -> float:
        step = (self.end - self.start) / max(1, len(self.names))
        return self.start + (self.names.index(value) + 0.5) * step

    def ticks(self, most: int = 6) -> list[tuple[float, str]]:
        return [(self(name), name) for name in self.names]


Axis = Scale | Choices


def frame(x: Axis, y: Axis, title_x: str, title_y: str, most: int = 6) -> Markup:
    """Grid, ticks and titles. Pixels grow downwards, so y.start is the bottom."""
    parts = [tag("path", d=f"M{x.start:.1f} {y.start:.1f}H{x.end:.1f}", class_="axis")]
    fits = (x.end - x.start) / max(1, len(x.ticks(most))) / _WIDE
    crowded = isinstance(x, Choices) and any(len(name) > fits for name in x.names)
    for at, text in x.ticks(most):
        if isinstance(x, Scale):
            parts.append(tag("path", d=f"M{at:.1f} {y.start:.1f}V{y.end:.1f}", class_="grid"))
        turn = {"transform": f"rotate(-25 {at:.1f} {y.start + 12:.1f})", "text_anchor": "end"} if crowded else {}
        shown = tag("title", text) if len(text) > 14 else ""
        parts.append(
            tag("text", shorten(text, 14), shown, **{"x": at, "y": y.start + 16, "text_anchor": "middle", **turn})
        )
    for at, text in y.ticks(max(2, min(most, round((y.start - y.end) / 34)))):
        parts.append(tag("path", d=f"M{x.start:.1f} {at:.1f}H{x.end:.1f}", class_="grid"))
        parts.append(tag("text", shorten(text, 12), x=x.start - 6, y=at + 4, text_anchor="end"))
    below = y.start + (46 if crowded else 34)
    parts.append(tag("text", title_x, x=(x.start + x.end) / 2, y=below, text_anchor="middle", class_="title"))
    parts.append(tag("text", title_y, x=4, y=12, class_="title"))
    return join(parts)


def svg(width: float, height: float, label: str, *parts: Any) -> Markup:
    """The root element. width, height: px; label: text for screen readers."""
    inside = (tag("title", label), *parts)
    box = {"viewBox": f"0 0 {width:g} {height:g}", "style": f"max-width:{round(width * 1.15)}px"}
    return tag("svg", *inside, **box, role="img", aria_label=label)


_SHAPES = {  # centred at the origin; {0} is half the width
    "cross": "M-{0} -{0}L{0} {0}M-{0} {0}L{0} -{0}",
    "diamond": "M0 -{0}L{0} 0L0 {0}L-{0} 0Z",
    "triangle": "M0 -{0}L{0} {0}H-{0}Z",
    "bar": "M0 -{0}V{0}",
}


def mark(shape: str, x: float, y: float, size: float, title: str = "", **attributes: Any) -> Markup:
    """A mark: circle, cross, diamond, triangle or bar. size: half its width in px. title: its tooltip."""
    tooltip = tag("title", title) if title else ""
    if shape == "circle":
        return tag("circle", tooltip, cx=x, cy=y, r=size, **attributes)
    path = _SHAPES[shape].format(f"{size:.1f}")
    return tag("path", tooltip, d=path, transform=f"translate({x:.1f} {y:.1f})", **attributes)


def line(points: Sequence[tuple[float, float]], title: str = "", **attributes: Any) -> Markup:
    """A polyline through points in px. title: its tooltip."""
    tooltip = tag("title", title) if title else ""
    path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", tooltip, d=path, **attributes)
