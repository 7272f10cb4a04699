"""One chart of the report as inline SVG, drawn by matplotlib.

Text stays text and every colour becomes a CSS variable of the page, so that one file serves light, dark and print.
Sizes are CSS pixels at the natural width of the chart; the page scales it.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from markupsafe import Markup

from covr_jax.report.formatting import show, tick

Numbers = Sequence[float]
# The light theme, by the names of the CSS variables. `Chart.render` replaces each value by its variable.
PALETTE = {
    "ink": "#161b26",
    "soft": "#5b6475",
    "axis": "#b9bfca",
    "grid": "#eceef3",
    "card": "#fffffe",  # not quite white: white is also matplotlib's own
    "policy": "#2f55d4",
    "vlm": "#c26a0a",
    "reference": "#7a8394",
}
RC = {
    **{f"axes.spines.{side}": False for side in ("left", "right", "top")},
    **{f"{axis}tick.color": PALETTE["axis"] for axis in "xy"},
    **{f"{axis}tick.labelcolor": PALETTE["soft"] for axis in "xy"},
    "axes.axisbelow": True,
    "axes.edgecolor": PALETTE["axis"],
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.labelcolor": PALETTE["soft"],
    "grid.color": PALETTE["grid"],
    "lines.linewidth": 2,
}
INLINE_SVG = {
    "svg.fonttype": "none",
    "svg.hashsalt": "covr_jax",  # the same chart has the same ids in every process
    "text.parse_math": False,
    "path.simplify_threshold": 0.5,  # px; a curve of 100,000 points takes 60 KB
    "figure.dpi": 72,  # SVG units are points, so one unit is one CSS pixel
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "axes.labelsize": 12,
    "axes.ymargin": 0.06,
    "font.size": 11,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "ytick.major.size": 0,
    "lines.markersize": 6.4,
    "lines.markeredgecolor": PALETTE["card"],
    "lines.markeredgewidth": 1.2,
}
GLYPH = 7.0  # px, widest digit of an 11 px font
_SVG = "{http://www.w3.org/2000/svg}"
ElementTree.register_namespace("", _SVG[1:-1])
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


class ChartFigure(NamedTuple):
    """A chart with the text that the page sets around it, where it can cover nothing."""

    svg: Markup
    y_label: str
    caption: str
    legend: tuple[tuple[str, str], ...]  # (CSS class of the key, text)
    wide: bool  # on a phone the page scrolls it, so that its text stays readable


@contextmanager
def matplotlib_style(**rc: Any) -> Iterator[None]:
    """Applies matplotlib's defaults, ``RC`` and ``rc``, whatever the user's matplotlibrc says."""
    import matplotlib.style  # slow to load, and most importers of covr_jax.report draw nothing

    with matplotlib.style.context(["default", RC | rc]):
        yield


class Chart:
    """Axes with the page's look. Create, draw and render them within ``matplotlib_style(**INLINE_SVG)``.

    The ``gid`` of an artist is its CSS class, a bar, and the texts that its dots (or itself) show under the pointer.

    Args:
      x_label: title of the x axis, with unit.
      x: range (low, high) of the x axis.
      width: CSS pixels.
      height: CSS pixels.
      x_format: text of a tick of the x axis.
      integers: whether ticks of the x axis are whole numbers.
    """

    def __init__(
        self,
        x_label: str,
        x: tuple[float, float],
        *,
        width: int = 480,
        height: int = 230,
        x_format: Callable[[float], str] = tick,
        integers: bool = False,
    ):
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        self.width, self.height, self.x, self.wide = width, height, x, width > 600
        self.figure = Figure(figsize=(width / 72, height / 72))
        self.axes = axes = self.figure.add_subplot(xlabel=x_label, xlim=x)
        look: dict[str, Any] = {"steps": [1, 2, 2.5, 5, 10]}
        axes.xaxis.set_major_locator(MaxNLocator(12 if integers else width // 80, integer=integers, **look))
        axes.yaxis.set_major_locator(MaxNLocator(height // 40, **look))
        axes.xaxis.set_major_formatter(lambda value, _: x_format(value))
        axes.yaxis.set_major_formatter(lambda value, _: tick(value))
        self._label_end = -math.inf

    def line(
        self, x: Numbers, y: Numbers, color: str, *, faint: bool = False, dots: bool = False, hints: Sequence[str] = ()
    ) -> None:
        """Draws a curve, with dots if asked for or if it is a single point, of which no line can be seen."""
        look: dict[str, Any] = {"linewidth": 1.1, "alpha": 0.4} if faint else {}
        if dots or len(x) == 1:
            look["marker"] = "o"
        hints = hints or [show(value) for value in y] if dots else ()
        self.axes.plot(x, y, color=PALETTE[color], gid=f"line {color}|{'|'.join(hints)}", **look)

    def band(self, x: Numbers, low: Numbers, high: Numbers, color: str) -> None:
        """Shades the area between two curves."""
        self.axes.fill_between(x, low, high, color=PALETTE[color], alpha=0.14, linewidth=0, gid=f"band {color}|")

    def level(self, y: float) -> None:
        """Draws the reference as a horizontal line."""
        self.axes.axhline(y, color=PALETTE["reference"], linewidth=1.6, linestyle=(0, (4, 3)), gid="level|")

    def span(self, start: float, end: float) -> None:
        """Shades a stretch of x over the whole height."""
        start, end = np.clip((start, end), *self.x)
        self.axes.axvspan(start, end, color=PALETTE["vlm"], alpha=0.09, linewidth=0, gid="span|")

    def rule(self, x: float, label: str = "", label_x: float | None = None) -> None:
        """Draws a vertical line. Its label stands above it (or above ``label_x``), unless it would touch the last."""
        if not self.x[0] <= x <= self.x[1]:
            return
        look: dict[str, Any] = {"alpha": 0.6, "linewidth": 1.1, "linestyle": (0, (1.4, 3.2))}
        self.axes.axvline(x, color=PALETTE["vlm"], gid="rule|", **look)
        share = ((x if label_x is None else label_x) - self.x[0]) / (self.x[1] - self.x[0])
        middle, half = share * (self.width - 60), GLYPH * len(label) / 2
        if label and middle - half > self._label_end + 4:
            look = {"weight": "bold", "ha": "center", "va": "bottom", "transform": self.axes.transAxes}
            self.axes.text(share, 1.02, label, color=PALETTE["vlm"], gid="label|", **look)
            self._label_end = middle + half

    def bars(self, edges: Numbers, heights: Numbers, color: str) -> None:
        """Draws a histogram; there is one more edge than heights."""
        look: dict[str, Any] = {"alpha": 0.85, "edgecolor": PALETTE["card"], "linewidth": 1}
        bars = self.axes.bar(edges[:-1], heights, np.diff(edges), align="edge", color=PALETTE[color], **look)
        for bar, a, b, height in zip(bars, edges, edges[1:], heights, strict=False):
            bar.set_gid(f"bar {color}|{show(a)} to {show(b)}: {show(height)}")

    def render(self, y_label: str, *legend: tuple[str, str], caption: str = "", zero: bool = False) -> ChartFigure:
        """Renders the chart. Unless limits were set, its y axis holds all data, and starts at 0 if they start near it.

        Args:
          y_label: title of the y axis, with unit.
          *legend: (CSS class, text) of each key.
          caption: text above the chart.
          zero: whether the y axis starts at 0 wherever the data start above it.
        """
        axes = self.axes
        low, high = axes.dataLim.intervaly
        if axes.get_autoscaley_on() and low >= 0 and (zero or low <= 0.35 * high):
            axes.set_ylim(bottom=0)
        left = 12 + GLYPH * max((len(tick(value)) for value in axes.get_yticks()), default=0)
        top = 1 - (26 if self.wide else 8) / self.height  # a wide chart has room for the labels of rules
        self.figure.subplots_adjust(max(34, left) / self.width, 40 / self.height, 1 - 14 / self.width, top)
        file = io.BytesIO()
        self.figure.savefig(file, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
        svg = inline(file.getvalue(), f"0 0 {self.width} {self.height}", f"{y_label} over {axes.get_xlabel()}")
        return ChartFigure(svg, y_label, caption, legend, self.wide)


def inline(svg: bytes, box: str, label: str) -> Markup:
    """Turns matplotlib's SVG file into an element of a page: CSS classes for ids, CSS variables for ``PALETTE``.

    The element has no style sheet and no references out of it.
    """
    root = ElementTree.fromstring(svg)
    root.attrib = {"viewBox": box, "role": "img", "aria-label": label}
    for defs in root.findall(f"{_SVG}defs"):  # a style sheet for all elements, and the clip paths
        root.remove(defs)
    for element in list(root.iter()):
        element.attrib.pop("clip-path", None)  # nothing is drawn out of the axes, and dots at their ends stay whole
        if element.tag == f"{_SVG}g":
            css, ours, hints = element.attrib.pop("id", "").partition("|")
            if ours:
                element.set("class", css)
            dots = list(element.iter(f"{_SVG}use")) or [element]
            for dot, hint in zip(dots, filter(None, hints.split("|")), strict=False):
                ElementTree.SubElement(dot, f"{_SVG}title").text = hint
    text = re.sub(r" font-family: [^;\"]*;?", "", ElementTree.tostring(root, encoding="unicode"))
    text = " ".join(text.split()).replace("> <", "><")
    for name, color in PALETTE.items():
        text = text.replace(color, f"var(--{name})")
    return Markup(text)
