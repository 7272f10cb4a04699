"""Waypoints of the real client's map at points of the plane.

``python waypoints.py road.xodr`` reads JSON ``[[x, y], ...]`` and writes one row or null for each: number of the
driving lane, distance from its centre in m, its direction in radians, the direction that ``dbc`` uses, whether the road
goes on. It is a process of its own, since only child processes may import the client.
"""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path


def main() -> None:
    import carla

    from covr_jax.carla.worker.lanes import lane_at, lane_direction

    world_map = carla.Map("road", Path(sys.argv[1]).read_text(encoding="utf-8"))
    rows = []
    for x, y in json.load(sys.stdin):
        found = lane_at(world_map, carla.Location(x, y, 0.0))
        if found is None:
            rows.append(None)
            continue
        centre, ahead = found.transform.location, found.next(5.0)
        here, there = lane_direction(found, ahead, 0.0), lane_direction(found, ahead, 5.0)
        angles = [math.atan2(vector[1], vector[0]) for vector in (here, there)]
        offset = (y - centre.y) * here[0] - (x - centre.x) * here[1]
        rows.append([found.lane_id, abs(offset), *angles, bool(ahead)])
    print(json.dumps(rows), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
