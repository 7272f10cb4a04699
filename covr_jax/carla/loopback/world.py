"""The loopback world: actors on one road, a clock, bumps. It knows nothing of sockets."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from covr_jax.carla.boxes import overlap
from covr_jax.carla.loopback.actors import Actor
from covr_jax.carla.loopback.collisions import Bump, collide
from covr_jax.carla.loopback.ground import Ground
from covr_jax.carla.loopback.image import Painter
from covr_jax.carla.loopback.road import parse
from covr_jax.carla.loopback.wire import POLES, VEGETATION, Transform

FREE_RUNNING_S = 0.05  # the step of a world that no client ticks
_NOON = [10.0, 0.0, 0.0, 10.0, 0.0, 75.0, 0.0, 0.0, 0.0, 0.2, 1.0, 0.03, 0.0331, 0.0]
# synchronous, no rendering, [fixed step], substepping, largest substep, substeps, view distance, deterministic
# ragdolls, stream distance, activation distance, spectator as ego
_SETTINGS = [False, False, [False], True, 0.01, 10, 0.0, False, 3000.0, 2000.0, True]


class Thing(NamedTuple):
    """An object of the scenery, which is listed and never drawn."""

    number: int
    name: str
    label: int
    transform: Transform


class World:
    """One map and what is on it.

    Args:
      map_name: what the client sees. xodr: OpenDRIVE text, see ``road``.

    Attributes:
      episode: grows when a map is loaded; actors of an older one are gone.
      settings, weather: the client's records, as they come.
      scenery: what stands beside the road. hidden: the numbers of it that a client has switched off.
    """

    def __init__(self, map_name: str, xodr: str):
        self.map_name, self.xodr = map_name, xodr
        self.road = parse(xodr)
        self.painter = Painter(Ground(self.road))
        self.episode, self.frame, self.elapsed = 0, 1, 0.0
        self._next_number = 1
        self.settings: list[Any] = list(_SETTINGS)
        self.actors: dict[int, Actor] = {}
        self.scenery = [
            Thing(1, "BP_Lamp_1", POLES, [[20.0, 15.0, 0.0], [0.0] * 3]),
            Thing(2, "BP_Tree_1", VEGETATION, [[40.0, 20.0, 0.0], [0.0] * 3]),
        ]
        self.begin()

    def begin(self) -> None:
        """A new episode: an empty road and weather as at noon. Frames go on counting."""
        self.episode += 1
        self.weather: list[float] = list(_NOON)
        self.actors, self.hidden = {}, set[int]()
        self.spectator = self.add([0, "spectator", []], [[0.0] * 3, [0.0] * 3])

    @property
    def synchronous(self) -> bool:
        """Whether time waits for the client."""
        return bool(self.settings[0])

    @property
    def delta(self) -> float:
        """Seconds per step."""
        fixed = self.settings[2]
        return float(fixed[1]) if len(fixed) == 2 else FREE_RUNNING_S

    def spawn_points(self, count: int = 8) -> list[Transform]:
        """Places in the middle of the first driving lane, 30 m apart."""
        lane = next(lane for lane in self.road.lanes if lane.kind == "driving")
        s = 20.0 + 30.0 * np.arange(count)
        rows = zip(*self.road.place(s, np.full(count, (lane.near + lane.far) / 2)), strict=True)
        return [[[float(x), float(y), 0.3], [0.0, math.degrees(yaw), 0.0]] for x, y, yaw in rows]

    def add(self, description: list[Any], transform: Transform, parent: int = 0) -> Actor:
        """A new actor; whether there is room is asked before, by ``free``."""
        actor = Actor(self._next_number, description, [list(part) for part in transform], parent)
        self.actors[actor.number] = actor
        self._next_number += 1
        return actor

    def free(self, description: list[Any], transform: Transform) -> bool:
        """Whether a body could be spawned there."""
        guest = Actor(0, description, transform)
        others = [actor for actor in self.actors.values() if actor.is_body]
        return not guest.is_body or all(overlap(guest.box, other.box).depth < 0 for other in others)

    def pose(self, actor: Actor) -> Transform:
        """Where the actor is; what is attached to another follows its position and yaw."""
        if actor.parent not in self.actors:
            return actor.transform
        (px, py, pz), (_, yaw, _) = self.actors[actor.parent].transform
        (x, y, z), (pitch, own_yaw, roll) = actor.transform
        c, s = math.cos(math.radians(yaw)), math.sin(math.radians(yaw))
        return [[px + x * c - y * s, py + x * s + y * c, pz + z], [pitch, yaw + own_yaw, roll]]

    def step(self) -> list[Bump]:
        """One step of time. Returns each collision twice, once from either side."""
        for actor in self.actors.values():
            actor.move(self.delta)
        self.frame += 1
        self.elapsed += self.delta
        bodies = [actor for actor in self.actors.values() if actor.is_body]
        return [
            bump
            for index, one in enumerate(bodies)
            for other in bodies[index + 1 :]
            for bump in collide(one, other, self.delta)
        ]
