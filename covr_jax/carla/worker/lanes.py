"""Lanes of the client's map: waypoints by road coordinates and by location, and the direction of a lane."""

from __future__ import annotations

import math
from typing import Any

from covr_jax.carla.worker.carla_import import carla
from covr_jax.carla.worker.failures import Fault

_LANE_ERROR = 0.01  # m, error of the client's geometry in single precision


def lane_waypoint(world_map: Any, road: int, lane: int, s: float) -> Any:
    """Returns the carla.Waypoint at an OpenDRIVE road, lane and ``s`` in m.

    Raises:
      Fault: the map has no such point.
    """
    waypoint = world_map.get_waypoint_xodr(road, lane, s)
    if waypoint is None:
        raise Fault("map", f"{world_map.name} has no road {road}, lane {lane}, s {s:.1f}")
    return waypoint


def lane_at(world_map: Any, location: Any) -> Any:
    """Returns the carla.Waypoint of the driving lane at a carla.Location, or None beside the road.

    Near the edge of a lane the client may return the next lane, or without projection none, although the location is a
    decimetre inside: its waypoints can be most of a metre too far back or ahead. So the distance from the lane's centre
    is measured across the lane, and the neighbouring lane is tried where the location is beyond the edge.
    """
    waypoint = world_map.get_waypoint(location, project_to_road=True, lane_type=carla.LaneType.Driving)
    if waypoint is None:
        return None
    excess = _lateral_excess(waypoint, location)
    if excess == 0.0:
        return waypoint
    neighbour = waypoint.get_right_lane() if excess > 0.0 else waypoint.get_left_lane()
    if neighbour is None or neighbour.lane_type != carla.LaneType.Driving or _lateral_excess(neighbour, location):
        return None
    return neighbour


def _lateral_excess(waypoint: Any, location: Any) -> float:
    """Distance in m beyond the lane's right edge; negative beyond the left edge, 0 inside the lane."""
    centre, right = waypoint.transform.location, waypoint.transform.get_right_vector()
    offset = (location.x - centre.x) * right.x + (location.y - centre.y) * right.y
    half = waypoint.lane_width / 2 + _LANE_ERROR
    return offset - max(-half, min(half, offset))


def lane_direction(waypoint: Any, ahead: list[Any], look_ahead: float) -> tuple[float, float]:
    """Returns the unit vector (x, y) along the lane, or (0, 0) without a lane.

    Args:
      waypoint: the lane's waypoint at the vehicle, or None.
      ahead: waypoints that follow it.
      look_ahead: m. Where positive, the direction is that from the first of ``ahead`` to its successor.
    """
    if waypoint is None:
        return (0.0, 0.0)
    if look_ahead > 0.0 and ahead and (following := ahead[0].next(0.1)):
        start, end = ahead[0].transform.location, following[0].transform.location
        x, y = end.x - start.x, end.y - start.y
    else:
        forward = waypoint.transform.get_forward_vector()
        x, y = forward.x, forward.y
    norm = math.hypot(x, y)
    return (x / norm, y / norm) if norm > 0.0 else (0.0, 0.0)
