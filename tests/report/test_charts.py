"""One chart: its axes, labels and dots, and the promises of its SVG."""

import re

import matplotlib
import pytest

from covr_jax.report.charts import INLINE_SVG, PALETTE, Chart, matplotlib_style
from tests.support.inline_svg import charts, corners, dots, hints, tagged, texts


def draw(*calls, x=(0, 1000), y_label="y", zero=False, **size):
    """A chart after calls of its methods, as (method, *arguments), and its SVG, parsed."""
    with matplotlib_style(**INLINE_SVG):
        chart = Chart("x", x, **size)
        for method, *arguments in calls:
            getattr(chart, method)(*arguments)
        svg = chart.render(y_label, zero=zero).svg
    return chart, svg, charts(svg)[0]


def y_range(values, zero=False):
    return draw(("line", range(len(values)), values, "vlm"), zero=zero)[0].axes.get_ylim()


def test_the_y_axis_holds_all_data_and_starts_at_zero_near_it():
    assert y_range([2.0, 10.0]) == (0, pytest.approx(10.48))
    assert y_range([8.0, 10.0]) == (pytest.approx(7.88), pytest.approx(10.12))
    assert y_range([8.0, 10.0], zero=True)[0] == 0
    for values in ([0.0], [5.0, 5.0], [-3.0], [1e300, -1e300]):
        low, high = y_range(values)
        assert low < high and low <= min(values) and max(values) <= high


@pytest.mark.parametrize(("low", "high"), [(-1e-9, 1e-9), (1e30, 3e30), (5, 5.0001), (0, 100), (-2e5, -1e5)])
def test_ticks_are_few_and_differ(low, high):
    chart, *_ = draw(("line", [low, high], [low, high], "vlm"), x=(low, high))
    for axis in (chart.axes.xaxis, chart.axes.yaxis):
        shown = [tick.label1.get_text() for tick in axis.get_major_ticks()]
        assert 2 <= len(shown) <= 9 and len(set(shown)) == len(shown)


def test_a_label_that_would_touch_the_last_is_left_out():
    rules = [("rule", at, f"round {at}") for at in (100, 102, 104, 300)]
    _, _, drawn = draw(("line", [0, 1], [0, 1], "vlm"), *rules)
    assert len(tagged(drawn, "rule")) == 4
    assert texts(drawn, "label") == ["round 100", "round 300"]


def test_an_empty_line_draws_nothing_and_a_single_point_a_dot():
    _, _, drawn = draw(("line", [], [], "vlm"), ("line", [500], [5.0], "policy"))
    assert corners(drawn, "line vlm") == [] and dots(drawn, "line vlm") == []
    assert len(dots(drawn, "line policy")) == 1


def test_what_is_out_of_range_stays_out_of_the_picture():
    calls = ("rule", 1e300, "9"), ("span", 500, 1e300), ("line", [0, 1], [0, 1], "vlm")
    _, _, drawn = draw(*calls, width=480)
    assert tagged(drawn, "rule") == [] and texts(drawn, "label") == []
    assert max(x for x, _ in corners(drawn, "span")[0]) == 480 - 14


def test_bars_say_their_numbers_under_the_pointer():
    _, _, drawn = draw(("bars", [0, 0.5, 1], [25.0, 75.0], "vlm"), x=(0, 1))
    assert hints(drawn, "bar vlm") == ["0 to 0.500: 25", "0.500 to 1: 75"]


def test_a_long_series_makes_no_large_page():
    values = [(-1.0) ** i * (i % 97) for i in range(100_000)]
    _, svg, _ = draw(("line", range(100_000), values, "vlm"), x=(0, 100_000))
    assert len(svg) < 100_000


def test_text_is_escaped_and_every_colour_is_a_variable_of_the_page():
    _, svg, drawn = draw(("line", [0, 1], [0, 1], "policy"), ("rule", 500, "<$a$&>"), y_label='"<script>')
    assert texts(drawn, "label") == ["<$a$&>"] and "<script" not in svg
    assert drawn.get("aria-label") == '"<script> over x'
    assert re.findall('#[0-9a-f]{3,6}[;"]', svg.replace("&#", "")) == []
    assert set(re.findall(r"var\(--(\w+)\)", svg)) <= set(PALETTE)


@pytest.mark.field
def test_the_users_matplotlibrc_changes_nothing():
    calls = ("line", [0, 1], [0, 1], "policy"), ("rule", 500, "round 1")
    with matplotlib.rc_context({"text.usetex": True, "svg.fonttype": "path", "axes.facecolor": "black"}):
        changed = draw(*calls)[1]
    assert changed == draw(*calls)[1]
