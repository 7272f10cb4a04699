"""The part of OpenDRIVE that this project's maps use: lines and arcs, lanes of constant width, painted marks.

All results are in CARLA's axes, whose y is the negative of OpenDRIVE's. ``s`` is the coordinate along the road and
``t`` the lateral one, positive to the left; both in m. Letters: N points.
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Piece(NamedTuple):
    """One segment of the reference line, in OpenDRIVE's axes."""

    s: float
    x: float
    y: float
    heading: float  # radians
    length: float
    curvature: float  # 1/m, positive to the left


class Lane(NamedTuple):
    """A lane of constant width beside the reference line."""

    number: int
    kind: str  # driving, shoulder or sidewalk
    near: float  # t of the edge next to the reference line
    far: float  # t of the other edge
    mark: str  # on the far edge: solid, broken or none


class Road(NamedTuple):
    """One road with one lane section."""

    number: int
    length: float
    speed_limit: float  # km/h
    pieces: list[Piece]
    lanes: list[Lane]
    centre_mark: str

    def pose(
        self, s: Float[np.ndarray, " N"], t: Float[np.ndarray, " N"]
    ) -> tuple[Float[np.ndarray, " N"], Float[np.ndarray, " N"], Float[np.ndarray, " N"]]:
        """Converts road coordinates to CARLA's plane.

        Args:
          s: coordinates along the road, within its length.
          t: lateral coordinates, positive to the left.

        Returns:
          x and y in m, and the road's yaw in radians.
        """
        starts = np.array([piece.s for piece in self.pieces])
        index = np.clip(np.searchsorted(starts, s, side="right") - 1, 0, len(starts) - 1)
        _, x0, y0, h0, _, k = np.array(self.pieces)[index].T
        along = s - starts[index]
        heading = h0 + k * along
        bent = np.abs(k) > 0
        divisor = np.where(bent, k, 1.0)
        x = x0 + np.where(bent, (np.sin(heading) - np.sin(h0)) / divisor, along * np.cos(h0))
        y = y0 + np.where(bent, (np.cos(h0) - np.cos(heading)) / divisor, along * np.sin(h0))
        return x - t * np.sin(heading), -(y + t * np.cos(heading)), -heading


def parse_road(text: str) -> Road:
    """Parses the single road of an OpenDRIVE text.

    Raises:
      ValueError: the map uses a part of OpenDRIVE that this module does not know.
    """
    roads = ElementTree.fromstring(text).findall("road")
    if len(roads) != 1 or len(roads[0].findall("lanes/laneSection")) != 1:
        raise ValueError("the loopback server draws maps of one road with one section")
    road = roads[0]
    section = road.find("lanes/laneSection")
    speed = road.find("type/speed")
    if section is None or speed is None:
        raise ValueError("the road has no lanes or no speed limit")
    pieces = [_piece(geometry) for geometry in road.findall("planView/geometry")]
    lanes = _side(section.findall("left/lane"), 1.0) + _side(section.findall("right/lane"), -1.0)
    mark = section.find("center/lane/roadMark")
    centre = "none" if mark is None else mark.get("type", "none")
    return Road(int(_number(road, "id")), _number(road, "length"), _number(speed, "max"), pieces, lanes, centre)


def _piece(geometry: ElementTree.Element) -> Piece:
    shape = geometry[0]
    if shape.tag not in ("line", "arc"):
        raise ValueError(f"the loopback server does not draw a {shape.tag}")
    curvature = _number(shape, "curvature") if shape.tag == "arc" else 0.0
    s, x, y, heading, length = (_number(geometry, name) for name in ("s", "x", "y", "hdg", "length"))
    return Piece(s, x, y, heading, length, curvature)


def _side(elements: list[ElementTree.Element], sign: float) -> list[Lane]:
    """The lanes left (sign 1) or right (sign -1) of the reference line."""
    lanes, edge = [], 0.0
    for element in sorted(elements, key=lambda lane: abs(_number(lane, "id"))):
        width, mark = element.find("width"), element.find("roadMark")
        if width is None or any(_number(width, name) for name in "bcd"):
            raise ValueError("the loopback server draws lanes of constant width")
        far = edge + sign * _number(width, "a")
        painted = "none" if mark is None else mark.get("type", "none")
        lanes.append(Lane(int(_number(element, "id")), element.get("type", ""), edge, far, painted))
        edge = far
    return lanes


def _number(element: ElementTree.Element, name: str) -> float:
    number = float(element.get(name, "nan"))
    if not math.isfinite(number):
        raise ValueError(f"<{element.tag}> has no number {name!r}")
    return number
