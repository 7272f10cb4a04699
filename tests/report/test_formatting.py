"""Numbers as text."""

from covr_jax.report.formatting import action_text, duration, show, steps, tick


def test_show():
    values = [None, 0, 12345.6, 861.24, 27.44, 0.5, 0.01234, -3.2, 1.2e-7, 2.5e9, 100, 99.96]
    expected = ["–", "0", "12,346", "861", "27.4", "0.500", "0.0123", "−3.20", "1.20e−07", "2.50e+09", "100", "100.0"]
    assert [show(v) for v in values] == expected


def test_numbers_on_axes():
    assert [steps(v) for v in (0, 500, 7_500, 100_000, 1_500_000)] == ["0", "500", "7.5k", "100k", "1.5M"]
    assert [tick(v) for v in (0.0, 0.30000000000000004, -5, 12_500, 1e-9)] == ["0", "0.3", "−5", "12,500", "1e−09"]


def test_durations_and_actions():
    assert [duration(v) for v in (None, 45.2, 720, 11_045)] == ["–", "45 s", "12 min", "3 h 04 min"]
    assert action_text([0.43, -0.1]) == "[+0.43, -0.10]" and action_text([]) == "–"
