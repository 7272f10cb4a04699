"""A map of what lies on the ground: one byte per cell, painted once, looked up by every picture."""

from __future__ import annotations

import numpy as np

from covr_jax.carla.loopback.road import Road
from covr_jax.types import Array

GRASS, ASPHALT, SHOULDER, SIDEWALK, PAINT = range(5)

_CELL = 0.2  # m
_STEP = 0.12  # m between two painted points: less than a cell, so that none is missed
_MARGIN = 10.0  # m
_MARK_WIDTH, _DASH, _GAP = 0.3, 3.0, 6.0  # m; wider than the 0.15 of the map, or far marks fall between the pixels
_SURFACE = {"driving": ASPHALT, "shoulder": SHOULDER, "sidewalk": SIDEWALK}


class Ground:
    """``at`` tells the surface below points of the plane."""

    def __init__(self, road: Road):
        s = np.arange(0.0, road.length, _STEP)
        edges = [lane.far for lane in road.lanes] + [0.0]
        x, y, _ = road.place(np.tile(s, 2), np.repeat([min(edges), max(edges)], len(s)))
        self._origin = np.array([x.min() - _MARGIN, y.min() - _MARGIN])
        shape = np.ceil((np.array([x.max(), y.max()]) + _MARGIN - self._origin) / _CELL).astype(int)
        self._cells = np.full(shape, GRASS, np.uint8)
        line = np.stack(road.place(s, np.zeros_like(s)))
        for lane in road.lanes:
            self._paint(line, (min(lane.near, lane.far), max(lane.near, lane.far)), _SURFACE[lane.kind])
        dashes = s % (_DASH + _GAP) < _DASH
        for edge, mark in [(lane.far, lane.mark) for lane in road.lanes] + [(0.0, road.centre_mark)]:
            if mark != "none":
                painted = line[:, dashes] if mark == "broken" else line
                self._paint(painted, (edge - _MARK_WIDTH / 2, edge + _MARK_WIDTH / 2), PAINT)

    def _paint(self, line: Array, strip: tuple[float, float], surface: int) -> None:
        """A strip (from, to in m to the left) along points of the reference line, f64[3,N]: x, y, yaw."""
        x, y, yaw = line
        right, ahead = np.sin(yaw), np.cos(yaw)
        for t in np.arange(*strip, _STEP):
            self._cells[self._index(x + t * right, 0), self._index(y - t * ahead, 1)] = surface

    def _index(self, coordinate: Array, axis: int) -> Array:
        index = ((coordinate - self._origin[axis]) / _CELL).astype(np.int32)
        return np.clip(index, 0, self._cells.shape[axis] - 1)

    def at(self, x: Array, y: Array) -> Array:
        """u8[...] surfaces at (x, y) in m; grass outside of the map."""
        return self._cells[self._index(x, 0), self._index(y, 1)]
