"""A small plotting library: axes, lines, bands, bars as inline SVG, coloured by the page's style sheet.

Text stays text and colours are CSS classes, so one file serves light, dark and print. All sizes are CSS pixels at the
natural width of the chart; the page scales it.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence

Numbers = Sequence[float]
GLYPH = 7.0  # widest digit of the 11 px tick font in any system font
MAX_POINTS = 500  # more than a line can show


def escape(text: object) -> str:
    """Any text, safe between tags and within double quotes."""
    return html.escape(str(text), quote=True)


def show(value: float | None, digits: int = 3) -> str:
    """A number for people: 12,345, 0.0123, 1.2e-07; an en dash for None."""
    if value is None:
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        text = f"{value:.{max(digits - 1, 0)}e}"
    elif abs(value) >= 10 ** (digits - 1) or value == round(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}"
    return text.replace("-", "−")


def steps(value: float) -> str:
    """Env steps as on an axis: 0, 7.5k, 100k, 1.5M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def ticks(low: float, high: float, count: int) -> list[float]:
    """About ``count`` round values within [low, high]."""
    rough = high / count - low / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = min((m * power for m in (1, 2, 2.5, 5, 10)), key=lambda s: abs(math.log(s / rough)))
    first, last = math.ceil(low / step - 1e-6), math.floor(high / step + 1e-6)
    return [i * step for i in range(first, last + 1)]


def _labels(values: list[float]) -> list[str]:
    """Ticks all with the decimals that their distance needs."""
    step = values[1] - values[0] if len(values) > 1 else max(abs(values[0]), 1.0) if values else 1.0
    top = max((abs(v) for v in values), default=0.0)
    if step < 1e-4 or top >= 1e7:
        texts = [f"{v:.1e}" if v else "0" for v in values]
    else:
        places = next((p for p in range(6) if abs(step * 10**p - round(step * 10**p)) < 1e-6 * 10**p), 6)
        texts = [f"{v:,.{places}f}" if round(v, places) else "0" for v in values]
    return [text.replace("-", "−") for text in texts]


def extent(*groups: Numbers, zero: bool = False) -> tuple[float, float]:
    """A range that holds all values with some air; from 0 where the data start near it, or if ``zero``."""
    values = [v for group in groups for v in group]
    low, high = min(values, default=0.0), max(values, default=1.0)
    if low >= 0 and (zero or low < 0.35 * high):
        low, air_low = 0.0, 0.0
    else:
        air_low = 0.06
    if high - low <= 1e-9 * max(abs(high), abs(low)):
        margin = 0.1 * abs(high) or 1.0
        return (low - margin if air_low else low), high + margin
    span = high - low
    return low - air_low * span, high + 0.06 * span


def thin(x: Numbers, y: Numbers, most: int = MAX_POINTS) -> tuple[list[float], list[float]]:
    """Means over runs of neighbours, at most ``most`` points."""
    size = -(-len(x) // most) if x else 1
    cuts = range(0, len(x), size)
    return [sum(v := x[i : i + size]) / len(v) for i in cuts], [sum(v := y[i : i + size]) / len(v) for i in cuts]


class Plot:
    """One chart, drawn in the order of the calls.

    Args:
      x, y: ranges (low, high) of the data.
      x_label, y_label: titles with units; the y title stands above its axis, so nothing is turned.
      width, height: CSS pixels.
      strip: room above the plot for the labels of ``rule``.
      x_format: tick value -> text; None writes plain numbers.
      x_ticks: tick values, None chooses them.
    """

    def __init__(
        self,
        *,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str,
        y_label: str,
        width: int = 480,
        height: int = 230,
        strip: int = 0,
        x_format: Callable[[float], str] | None = None,
        x_ticks: Numbers | None = None,
    ):
        self.width, self.height, self.name = width, height, f"{y_label} over {x_label}"
        self._x, self._y = x, y if y[1] > y[0] else (y[0] - 1, y[1] + 1)
        y_ticks = ticks(*self._y, max(3, height // 50))
        texts = _labels(y_ticks)
        self.left = max(34.0, 12 + GLYPH * max((len(t) for t in texts), default=0))
        self.top, self.right, self.bottom = 26.0 + strip, width - 14.0, height - 40.0
        self._body: list[str] = []
        self._labelled = -math.inf
        for value, text in zip(y_ticks, texts, strict=True):
            h = self.py(value)
            self._add("line", "grid", x1=self.left, x2=self.right, y1=h, y2=h)
            self._text(self.left - 7, h + 3.8, text, "tick end")
        self._x_axis(ticks(*x, width // 95) if x_ticks is None else list(x_ticks), x_format)
        self._text(0, 11, y_label, "title")
        self._text((self.left + self.right) / 2, height - 5, x_label, "title mid")

    def _x_axis(self, values: list[float], form: Callable[[float], str] | None) -> None:
        texts = _labels(values) if form is None else [form(v) for v in values]
        for value, text in zip(values, texts, strict=True):
            h = self.px(value)
            self._add("line", "axis", x1=h, x2=h, y1=self.bottom, y2=self.bottom + 4)
            self._text(h, self.bottom + 16, text, "tick mid")
        self._add("line", "axis", x1=self.left, x2=self.right, y1=self.bottom, y2=self.bottom)

    def _add(self, tag: str, css: str, hint: str = "", **sizes: float) -> None:
        attributes = "".join(f' {name}="{value:.1f}"' for name, value in sizes.items())
        inner = f"><title>{escape(hint)}</title></{tag}>" if hint else "/>"
        self._body.append(f'<{tag} class="{css}"{attributes}{inner}')

    def _text(self, x: float, y: float, text: str, css: str) -> None:
        self._body.append(f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>')

    def px(self, value: float) -> float:
        """The horizontal place of an x."""
        low, high = self._x
        return self.left + (value - low) / ((high - low) or 1.0) * (self.right - self.left)

    def py(self, value: float) -> float:
        """The vertical place of a y."""
        low, high = self._y
        share = min(max((value - low) / (high - low), -0.02), 1.02)  # out of range is shown at the edge
        return self.bottom - share * (self.bottom - self.top)

    def _path(self, x: Numbers, y: Numbers) -> str:
        return " ".join(f"{self.px(a):.1f},{self.py(b):.1f}" for a, b in zip(x, y, strict=True))

    def line(self, x: Numbers, y: Numbers, css: str) -> Plot:
        """A curve."""
        if len(x) < 2:  # no line can be seen
            return self.points(x, y, css)
        x, y = thin(x, y)
        self._body.append(f'<polyline class="line {css}" points="{self._path(x, y)}"/>')
        return self

    def points(self, x: Numbers, y: Numbers, css: str, hints: Sequence[str] = ()) -> Plot:
        """Dots; a hint is shown where the pointer rests."""
        for i, (a, b) in enumerate(zip(x, y, strict=True)):
            self._add("circle", f"dot {css}", hints[i] if i < len(hints) else "", cx=self.px(a), cy=self.py(b), r=3.2)
        return self

    def band(self, x: Numbers, low: Numbers, high: Numbers, css: str) -> Plot:
        """The area between two curves."""
        around = self._path(x, high) + " " + self._path(x[::-1], low[::-1])
        self._body.append(f'<polygon class="band {css}" points="{around}"/>')
        return self

    def span(self, x0: float, x1: float, css: str) -> Plot:
        """A shaded stretch of x over the whole height."""
        a, b = self.px(x0), self.px(x1)
        self._add("rect", f"span {css}", x=a, y=self.top, width=b - a, height=self.bottom - self.top)
        return self

    def level(self, y: float, css: str) -> Plot:
        """A horizontal line across the plot."""
        h = self.py(y)
        self._add("line", f"level {css}", x1=self.left, x2=self.right, y1=h, y2=h)
        return self

    def rule(self, x: float, label: str = "", at: float | None = None) -> Plot:
        """A vertical line; its label stands in the strip above it (or above ``at``), unless it would touch the last."""
        h = self.px(x)
        self._add("line", "rule", x1=h, x2=h, y1=self.top, y2=self.bottom)
        middle, half = (h if at is None else self.px(at)), GLYPH * len(label) / 2
        if label and middle - half > self._labelled + 4:
            self._text(middle, self.top - 5, label, "tick mid vlm")
            self._labelled = middle + half
        return self

    def bars(self, edges: Numbers, counts: Numbers, css: str) -> Plot:
        """Counts between edges, one more edge than counts."""
        for a, b, count in zip(edges, edges[1:], counts, strict=False):
            x, w, y = self.px(a) + 0.5, max(self.px(b) - self.px(a) - 1, 0.5), self.py(count)
            hint = f"{show(a)} to {show(b)}: {show(count)}"
            self._add("rect", f"bar {css}", hint, x=x, y=y, width=w, height=self.bottom - y)
        return self

    def svg(self) -> str:
        """The whole element."""
        head = f'<svg viewBox="0 0 {self.width} {self.height}" role="img" aria-label="{escape(self.name)}">'
        return head + "".join(self._body) + "</svg>"
