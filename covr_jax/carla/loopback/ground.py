"""Surface map of the loopback world's ground: one byte per cell, rasterised once. Letters: N points."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Integer, UInt8

from covr_jax.carla.loopback.road import Road

GRASS, ASPHALT, SHOULDER, SIDEWALK, PAINT = range(5)

_CELL = 0.2  # m
_STEP = 0.12  # m between two rasterised points: less than a cell, so that no cell is missed
_MARGIN = 10.0  # m
_MARK_WIDTH, _DASH, _GAP = 0.3, 3.0, 6.0  # m; wider than the map's 0.15, or far marks fall between the pixels
_SURFACE = {"driving": ASPHALT, "shoulder": SHOULDER, "sidewalk": SIDEWALK}


class Ground:
    """Surface types of the ground plane around one road."""

    def __init__(self, road: Road):
        s = np.arange(0.0, road.length, _STEP)
        edges = [lane.far for lane in road.lanes] + [0.0]
        x, y, _ = road.pose(np.tile(s, 2), np.repeat([min(edges), max(edges)], len(s)))
        self._origin = np.array([x.min() - _MARGIN, y.min() - _MARGIN])
        shape = np.ceil((np.array([x.max(), y.max()]) + _MARGIN - self._origin) / _CELL).astype(int)
        self._cells = np.full(shape, GRASS, np.uint8)
        line = np.stack(road.pose(s, np.zeros_like(s)))
        for lane in road.lanes:
            self._fill(line, (min(lane.near, lane.far), max(lane.near, lane.far)), _SURFACE[lane.kind])
        dashes = s % (_DASH + _GAP) < _DASH
        for edge, mark in [(lane.far, lane.mark) for lane in road.lanes] + [(0.0, road.centre_mark)]:
            if mark != "none":
                painted = line[:, dashes] if mark == "broken" else line
                self._fill(painted, (edge - _MARK_WIDTH / 2, edge + _MARK_WIDTH / 2), PAINT)

    def _fill(self, line: Float[np.ndarray, "3 N"], strip: tuple[float, float], surface: int) -> None:
        """Fills a strip beside the reference line.

        Args:
          line: x, y, yaw of points of the reference line.
          strip: lateral bounds in m, positive to the left.
          surface: the surface type.
        """
        x, y, yaw = line
        right, ahead = np.sin(yaw), np.cos(yaw)
        for t in np.arange(*strip, _STEP):
            self._cells[self._index(x + t * right, 0), self._index(y - t * ahead, 1)] = surface

    def _index(self, coordinate: Float[np.ndarray, " N"], axis: int) -> Integer[np.ndarray, " N"]:
        index = ((coordinate - self._origin[axis]) / _CELL).astype(np.int32)
        return np.clip(index, 0, self._cells.shape[axis] - 1)

    def surface_at(self, x: Float[np.ndarray, " N"], y: Float[np.ndarray, " N"]) -> UInt8[np.ndarray, " N"]:
        """Returns the surface types at points (x, y) in m; GRASS outside the map."""
        return self._cells[self._index(x, 0), self._index(y, 1)]
