"""The plotting library: numbers, ticks, ranges."""

import pytest

from covr_jax.report.svg import Plot, extent, show, steps, thin, ticks


def test_show():
    values = [None, 0, 12345.6, 861.24, 27.44, 0.5, 0.01234, -3.2, 1.2e-7, 2.5e9, 100, 99.96]
    expected = ["–", "0", "12,346", "861", "27.4", "0.500", "0.0123", "−3.20", "1.20e−07", "2.50e+09", "100", "100.0"]
    assert [show(v) for v in values] == expected


def test_ticks_are_round_and_inside():
    assert ticks(0, 100, 5) == [0, 20, 40, 60, 80, 100]
    assert ticks(0, 1.06, 4) == pytest.approx([0, 0.25, 0.5, 0.75, 1.0])
    assert [steps(v) for v in (0, 500, 7_500, 100_000, 1_500_000)] == ["0", "500", "7.5k", "100k", "1.5M"]
    for low, high in ((-1e-9, 1e-9), (1e30, 3e30), (5, 5.0001)):
        values, air = ticks(low, high, 4), 1e-5 * (high - low)
        assert 2 <= len(values) <= 8 and low - air <= values[0] and values[-1] <= high + air


def test_extent_and_thin():
    assert extent([2.0, 10.0]) == (0, pytest.approx(10.6))
    assert extent([8.0, 10.0]) == (pytest.approx(7.88), pytest.approx(10.12))
    assert extent([8.0, 10.0], zero=True)[0] == 0
    for values in ([], [0.0], [5.0, 5.0], [-3.0]):
        low, high = extent(values)
        assert low < high
    x, y = thin(list(range(1000)), [1.0] * 1000, most=100)
    assert len(x) == 100 and x[0] == 4.5 and set(y) == {1.0}
    assert thin([1, 2], [3, 4]) == ([1, 2], [3, 4])


def test_a_label_that_would_touch_the_last_is_left_out():
    plot = Plot(x=(0, 1000), y=(0, 1), x_label="x", y_label="y", strip=18)
    for at in (100, 102, 104, 300):
        plot.rule(at, f"round {at}")
    drawn = plot.svg()
    assert drawn.count('class="rule"') == 4
    assert [label for label in ("round 100", "round 102", "round 104", "round 300") if label in drawn] == [
        "round 100",
        "round 300",
    ]


def test_an_empty_line_draws_nothing_and_a_single_point_a_dot():
    plot = Plot(x=(0, 1), y=(0, 1), x_label="x", y_label="y")
    assert "polyline" not in plot.line([], [], "policy").svg()
    assert plot.line([0.5], [0.5], "policy").svg().count("<circle") == 1


def test_the_ends_of_the_axes():
    plot = Plot(x=(-2, 2), y=(10, 20), x_label="x", y_label="y", width=400, height=200)
    assert (plot.px(-2), plot.px(2)) == (plot.left, plot.right)
    assert (plot.py(10), plot.py(20)) == (plot.bottom, plot.top)
    assert plot.py(15) == pytest.approx((plot.bottom + plot.top) / 2)
    assert plot.py(1e9) > plot.top - 10, "what is out of range stays in the picture"
