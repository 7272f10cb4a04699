"""The road maps of this project: the loopback server's geometry against that of the real client."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from covr_jax.carla.loopback.__main__ import ASSETS, MAPS
from covr_jax.carla.loopback.ground import ASPHALT, GRASS, PAINT, SHOULDER, SIDEWALK, Ground
from covr_jax.carla.loopback.road import parse_road
from covr_jax.carla.servers import child_environment

pytest.importorskip("carla", reason="the client is not installed")

POSES = 3000
ALONG = 0.8  # m by which the client's waypoints may be too far back or ahead; it matters in bends


def load(name):
    return parse_road((ASSETS / f"{name}.xodr").read_text(encoding="utf-8"))


def client_waypoints(name, x, y):
    """The client's waypoints at some points."""
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "waypoints.py"),
        str(ASSETS / f"{name}.xodr"),
    ]
    points = json.dumps(np.stack([x, y], 1).tolist())
    done = subprocess.run(
        command, input=points, capture_output=True, text=True, timeout=60, env=child_environment(), check=True
    )
    return json.loads(done.stdout)


def difference(a, b):
    return abs((a - b + np.pi) % (2 * np.pi) - np.pi)


@pytest.mark.parametrize("name", MAPS)
def test_random_poses_are_in_the_lane_that_the_client_gives(name):
    road, random = load(name), np.random.default_rng(0)
    s = random.uniform(1.0, road.length - 11.0, POSES)
    t = random.uniform(-19.0, 8.0, POSES)
    x, y, yaw = road.pose(s, t)
    _, _, later = road.pose(s + 5.0, t)
    bend = max(abs(piece.curvature) for piece in road.pieces)
    seen = set()
    for index, answer in enumerate(client_waypoints(name, x, y)):
        around = [lane for lane in road.lanes if min(lane.near, lane.far) < t[index] < max(lane.near, lane.far)]
        lane = around[0] if around else None
        edge_distance = min(abs(t[index] - edge) for edge in [0.0, *(strip.far for strip in road.lanes)])
        if edge_distance < 0.03:
            continue  # on a line either lane is right
        driving = lane is not None and lane.kind == "driving"
        assert (answer is not None) == driving, (s[index], t[index])
        if answer is None:
            continue
        number, offset, here, ahead, goes_on = answer
        seen.add(number)
        direction = yaw[index] if number < 0 else yaw[index] + np.pi
        assert number == lane.number and goes_on
        assert offset == pytest.approx(abs(t[index] - (lane.near + lane.far) / 2), abs=bend * ALONG**2 / 2 + 1e-3)
        assert difference(here, direction) < bend * ALONG + 1e-3
        if number < 0:
            assert difference(ahead, later[index]) < bend * (ALONG + 0.3) + 0.01  # 5 m along this lane, not the line
    assert seen == {lane.number for lane in road.lanes if lane.kind == "driving"}


@pytest.mark.parametrize("name", MAPS)
def test_the_painted_ground_agrees_with_the_lanes(name):
    road, random = load(name), np.random.default_rng(1)
    ground = Ground(road)
    s, t = random.uniform(0.5, road.length - 0.5, 20_000), random.uniform(-25.0, 15.0, 20_000)
    surface = ground.surface_at(*road.pose(s, t)[:2])
    edges = np.array([lane.far for lane in road.lanes] + [0.0])
    clear = np.abs(t[:, None] - edges).min(1) > 0.5
    kinds = {"driving": ASPHALT, "shoulder": SHOULDER, "sidewalk": SIDEWALK}
    for lane in road.lanes:
        inside = clear & (t > min(lane.near, lane.far)) & (t < max(lane.near, lane.far))
        assert inside.sum() > 50 and np.unique(surface[inside]).tolist() == [kinds[lane.kind]]
    outside = clear & ((t > edges.max()) | (t < edges.min()))
    assert np.unique(surface[outside]).tolist() == [GRASS]
    solid = next(lane.far for lane in road.lanes if lane.mark == "solid")
    along = np.linspace(1.0, road.length - 1.0, 500)
    assert (ground.surface_at(*road.pose(along, np.full(500, solid))[:2]) == PAINT).all()
