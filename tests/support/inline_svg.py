"""What is drawn in the charts of a report, by their CSS classes."""

import re
from xml.etree import ElementTree

SVG = "{http://www.w3.org/2000/svg}"


def charts(page):
    """The SVG elements of a page, parsed."""
    return [ElementTree.fromstring(svg) for svg in re.findall(r"(?s)<svg.*?</svg>", page)]


def tagged(chart, css):
    """The groups of a CSS class."""
    return [group for group in chart.iter(f"{SVG}g") if group.get("class") == css]


def dots(chart, css):
    """(x, y) of each dot of a line, in CSS pixels."""
    uses = [use for group in tagged(chart, css) for use in group.iter(f"{SVG}use")]
    return [(float(use.get("x")), float(use.get("y"))) for use in uses]


def corners(chart, css):
    """(x, y) of each corner of each path of a CSS class, in CSS pixels."""
    paths = [path for group in tagged(chart, css) for path in group.iter(f"{SVG}path")]
    return [[tuple(map(float, p)) for p in re.findall(r"[ML] (\S+) (\S+)", path.get("d"))] for path in paths]


def texts(chart, css=None):
    """All texts of a chart, or those of a CSS class."""
    groups = [chart] if css is None else tagged(chart, css)
    return [text.text for group in groups for text in group.iter(f"{SVG}text")]


def hints(chart, css):
    """The texts that are shown under the pointer."""
    return [title.text for group in tagged(chart, css) for title in group.iter(f"{SVG}title")]
