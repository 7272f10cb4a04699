"""Numbers as text for people: returns, env steps, durations, actions."""

from __future__ import annotations

import math
from collections.abc import Sequence


def show(value: float | None, digits: int = 3) -> str:
    """Formats a number: 12,345, 0.0123, 1.2e-07; an en dash for None."""
    if value is None:
        return "–"
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        text = f"{value:.{max(digits - 1, 0)}e}"
    elif abs(value) >= 10 ** (digits - 1) or value == round(value):
        text = f"{value:,.0f}"
    else:
        text = f"{value:.{digits - 1 - math.floor(math.log10(abs(value)))}f}"
    return text.replace("-", "−")


def whole(value: float | None) -> str:
    """Formats a count: 12,345; an en dash for None."""
    return "–" if value is None else f"{value:,.0f}"


def steps(value: float) -> str:
    """Formats env steps as on an axis: 0, 7.5k, 100k, 1.5M."""
    for unit, name in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:g}{name}"
    return f"{value:g}"


def tick(value: float) -> str:
    """Formats a round number as on an axis: 0, 0.025, 1,500, −5."""
    return f"{value:,.10g}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Formats seconds: 45 s, 12 min, 3 h 05 min; an en dash for None."""
    if seconds is None:
        return "–"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def action_text(values: Sequence[float]) -> str:
    """Formats an action as the VLM writes its own: [+0.43, −0.10]; an en dash for an empty one."""
    return "[" + ", ".join(f"{v:+.2f}" for v in values) + "]" if values else "–"
