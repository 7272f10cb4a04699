"""Overlap of oriented rectangles in the ground plane. Lengths in m, angles in radians."""

from __future__ import annotations

import math
from typing import NamedTuple


class Box(NamedTuple):
    """An oriented rectangle: its centre, yaw and half sizes."""

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
    """Returns the direction in which two boxes overlap least, by the separating axis theorem."""
    dx, dy = b.x - a.x, b.y - a.y
    overlaps = []
    for yaw in (a.yaw, a.yaw + math.pi / 2, b.yaw, b.yaw + math.pi / 2):
        x, y = math.cos(yaw), math.sin(yaw)
        distance = dx * x + dy * y
        sign = 1.0 if distance >= 0 else -1.0
        overlaps.append(Overlap(_half_extent(a, x, y) + _half_extent(b, x, y) - abs(distance), sign * x, sign * y))
    return min(overlaps)


def _half_extent(box: Box, x: float, y: float) -> float:
    """Half the length in m of the box's projection on the unit vector (x, y)."""
    c, s = math.cos(box.yaw), math.sin(box.yaw)
    return box.half_length * abs(c * x + s * y) + box.half_width * abs(c * y - s * x)
