"""Whether two upright boxes touch, seen from above."""

from __future__ import annotations

import math
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle in the plane. Angles in radians, lengths in m."""

    x: float
    y: float
    yaw: float
    half_length: float
    half_width: float


class Overlap(NamedTuple):
    """Depth in m along the unit vector (x, y) that points from the first box to the second; negative when apart."""

    depth: float
    x: float
    y: float


def overlap(a: Box, b: Box) -> Overlap:
    """The direction in which the boxes overlap least, by the separating axes of both."""
    dx, dy = b.x - a.x, b.y - a.y
    found = []
    for yaw in (a.yaw, a.yaw + math.pi / 2, b.yaw, b.yaw + math.pi / 2):
        x, y = math.cos(yaw), math.sin(yaw)
        distance = dx * x + dy * y
        sign = 1.0 if distance >= 0 else -1.0
        found.append(Overlap(_reach(a, x, y) + _reach(b, x, y) - abs(distance), sign * x, sign * y))
    return min(found)


def _reach(box: Box, x: float, y: float) -> float:
    """How far the box extends from its middle along a unit vector."""
    c, s = math.cos(box.yaw), math.sin(box.yaw)
    return box.half_length * abs(c * x + s * y) + box.half_width * abs(c * y - s * x)
