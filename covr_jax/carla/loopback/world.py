"""The simulated state of the loopback server: actors on one road, a clock, collisions. It uses no sockets."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from covr_jax.carla.boxes import overlap
from covr_jax.carla.loopback.actors import Actor
from covr_jax.carla.loopback.collisions import Collision, collide
from covr_jax.carla.loopback.ground import Ground
from covr_jax.carla.loopback.image import SceneRenderer
from covr_jax.carla.loopback.road import parse_road
from covr_jax.carla.loopback.wire import POLES, VEGETATION, Transform

FREE_RUNNING_S = 0.05  # time step while no client sets the clock
_NOON = [10.0, 0.0, 0.0, 10.0, 0.0, 75.0, 0.0, 0.0, 0.0, 0.2, 1.0, 0.03, 0.0331, 0.0]
# synchronous, no rendering, [fixed step], substepping, largest substep, substeps, view distance, deterministic
# ragdolls, stream distance, activation distance, spectator as ego
_SETTINGS = [False, False, [False], True, 0.01, 10, 0.0, False, 3000.0, 2000.0, True]


class SceneryObject(NamedTuple):
    """An object beside the road, which is listed but not drawn."""

    number: int
    name: str
    label: int
    transform: Transform


class World:
    """One map and its actors.

    Args:
      map_name: name of the map for the client.
      xodr: OpenDRIVE text, see ``road``.

    Attributes:
      episode: number of the episode, which grows when a map is loaded; actors of earlier episodes are gone.
      settings: the client's record of episode settings.
      weather: the client's record of weather parameters.
      scenery: objects beside the road.
      hidden: numbers of the scenery objects that a client has hidden.
    """

    def __init__(self, map_name: str, xodr: str):
        self.map_name, self.xodr = map_name, xodr
        self.road = parse_road(xodr)
        self.renderer = SceneRenderer(Ground(self.road))
        self.episode, self.frame, self.elapsed = 0, 1, 0.0
        self._next_number = 1
        self.settings: list[Any] = list(_SETTINGS)
        self.actors: dict[int, Actor] = {}
        self.scenery = [
            SceneryObject(1, "BP_Lamp_1", POLES, [[20.0, 15.0, 0.0], [0.0] * 3]),
            SceneryObject(2, "BP_Tree_1", VEGETATION, [[40.0, 20.0, 0.0], [0.0] * 3]),
        ]
        self.begin()

    def begin(self) -> None:
        """Starts a new episode with an empty road and clear noon; the frame number goes on."""
        self.episode += 1
        self.weather: list[float] = list(_NOON)
        self.actors, self.hidden = {}, set[int]()
        self.spectator = self.add([0, "spectator", []], [[0.0] * 3, [0.0] * 3])

    @property
    def synchronous(self) -> bool:
        """Whether a client advances the clock."""
        return bool(self.settings[0])

    @property
    def delta(self) -> float:
        """Time step in s."""
        fixed = self.settings[2]
        return float(fixed[1]) if len(fixed) == 2 else FREE_RUNNING_S

    def spawn_points(self, count: int = 8) -> list[Transform]:
        """Returns ``count`` poses in the middle of the first driving lane, 30 m apart."""
        lane = next(lane for lane in self.road.lanes if lane.kind == "driving")
        s = 20.0 + 30.0 * np.arange(count)
        rows = zip(*self.road.pose(s, np.full(count, (lane.near + lane.far) / 2)), strict=True)
        return [[[float(x), float(y), 0.3], [0.0, math.degrees(yaw), 0.0]] for x, y, yaw in rows]

    def add(self, description: list[Any], transform: Transform, parent: int = 0) -> Actor:
        """Adds an actor without a check for free room; see ``has_room``."""
        actor = Actor(self._next_number, description, [list(part) for part in transform], parent)
        self.actors[actor.number] = actor
        self._next_number += 1
        return actor

    def has_room(self, description: list[Any], transform: Transform) -> bool:
        """Whether a new actor would overlap no body."""
        candidate = Actor(0, description, transform)
        others = [actor for actor in self.actors.values() if actor.is_body]
        return not candidate.is_body or all(overlap(candidate.box, other.box).depth < 0 for other in others)

    def pose(self, actor: Actor) -> Transform:
        """Pose of the actor; an attached actor follows its parent's position and yaw."""
        if actor.parent not in self.actors:
            return actor.transform
        (px, py, pz), (_, yaw, _) = self.actors[actor.parent].transform
        (x, y, z), (pitch, own_yaw, roll) = actor.transform
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        return [[px + x * c - y * s, py + x * s + y * c, pz + z], [pitch, yaw + own_yaw, roll]]

    def step(self) -> list[Collision]:
        """Runs one time step. Returns each collision twice, once from either side."""
        for actor in self.actors.values():
            actor.move(self.delta)
        self.frame += 1
        self.elapsed += self.delta
        bodies = [actor for actor in self.actors.values() if actor.is_body]
        return [
            collision
            for index, one in enumerate(bodies)
            for other in bodies[index + 1 :]
            for collision in collide(one, other, self.delta)
        ]
