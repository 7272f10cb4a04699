"""Everybody on the road but the ego vehicle: traffic, parked vans, pedestrians."""

from __future__ import annotations

import math
import socket
from typing import Any, NamedTuple

from covr_jax.carla.boxes import Box, overlap
from covr_jax.carla.scenarios import Driver, Episode, Ghost, Ghosts, Scenario
from covr_jax.carla.worker.carla_import import carla
from covr_jax.carla.worker.failures import Fault

LIFT = 0.3  # m; vehicles are spawned above the road and drop
_WALKER_LIFT = 1.0
_REACH = 12.0  # m, beyond which nothing touches


class Walker(NamedTuple):
    """A pedestrian on call."""

    number: int
    trigger: float
    control: Any  # carla.WalkerControl that crosses the road
    crossing: float
    start: tuple[float, float]


class ActorPool:
    """The actors of one episode; ``clear`` removes them."""

    def __init__(self, client: Any, world: Any, scenario: Scenario):
        self._client, self._world, self._map, self._scenario = client, world, world.get_map(), scenario
        self._boxes: dict[int, tuple[float, float]] = {}  # half length and half width of everybody
        self._waiting: list[Walker] = []
        self._crossing: list[Walker] = []
        self._manager: Any = None
        if scenario.traffic:
            self._port = free_port()
            self._manager = client.get_trafficmanager(self._port)
            self._manager.set_synchronous_mode(True)

    def clear(self) -> None:
        """Remove everybody; whoever is gone already does not matter."""
        if self._boxes:
            self._client.apply_batch_sync([carla.command.DestroyActor(number) for number in self._boxes], False)
        self._boxes, self._waiting, self._crossing = {}, [], []

    def close(self) -> None:
        """End the Traffic Manager. It stays synchronous: on its own clock it would ask for vehicles that are gone."""
        if self._manager is not None:
            self._manager.shut_down()

    def spawn(self, episode: Episode) -> None:
        """Put the episode's actors on the road; for whom there is no room is left out."""
        if episode.drivers:
            self._manager.set_random_device_seed(episode.traffic_seed)
            self._spawn_drivers(episode.drivers)
        if self._scenario.ghosts:
            for ghost in episode.ghosts:
                self._spawn_ghost(self._scenario.ghosts, ghost)

    def _spawn_drivers(self, drivers: tuple[Driver, ...]) -> None:
        commands = []
        for driver in drivers:
            place = lane_place(self._map, self._scenario.road, driver.lane, driver.s).transform
            place.location.z += LIFT
            commands.append(carla.command.SpawnActor(self._vehicle(driver.blueprint, driver.colour), place))
        replies = self._client.apply_batch_sync(commands, False)
        settled = {reply.actor_id: driver for reply, driver in zip(replies, drivers, strict=True) if not reply.error}
        for vehicle in self._world.get_actors(list(settled)):
            self._add(vehicle)
            vehicle.set_autopilot(True, self._port)
            driver = settled[vehicle.id]
            self._manager.vehicle_percentage_speed_difference(vehicle, driver.speed_difference)
            self._manager.auto_lane_change(vehicle, True)
            self._manager.ignore_lights_percentage(vehicle, 100.0)
            self._manager.ignore_signs_percentage(vehicle, 100.0)

    def _spawn_ghost(self, ghosts: Ghosts, ghost: Ghost) -> None:
        van_place = self._beside(ghosts, ghost.s)
        van_place.location.z += LIFT
        van = self._world.try_spawn_actor(self._vehicle(ghost.blueprint, ghost.colour), van_place)
        if van is None:
            return
        self._add(van)
        van.apply_control(carla.VehicleControl(hand_brake=True))
        blueprints = sorted(self._world.get_blueprint_library().filter(ghosts.walkers), key=lambda found: found.id)
        blueprint = blueprints[ghost.walker % len(blueprints)]
        if blueprint.has_attribute("is_invincible"):
            blueprint.set_attribute("is_invincible", "false")
        place = self._beside(ghosts, ghost.s + ghosts.behind)
        right = place.get_right_vector()
        place.location.z += _WALKER_LIFT
        place.rotation.yaw -= 90.0  # towards the road
        walker = self._world.try_spawn_actor(blueprint, place)
        if walker is None:
            return
        self._add(walker)
        control = carla.WalkerControl(carla.Vector3D(-right.x, -right.y, 0.0), ghost.speed, False)
        start = (place.location.x, place.location.y)
        self._waiting.append(Walker(walker.id, ghost.trigger, control, ghosts.crossing, start))

    def _beside(self, ghosts: Ghosts, s: float) -> Any:
        """The pose at ``s`` where the vans stand."""
        place = lane_place(self._map, self._scenario.road, ghosts.lane, s).transform
        right = place.get_right_vector()
        place.location += carla.Location(x=right.x * ghosts.sideways, y=right.y * ghosts.sideways)
        return place

    def _vehicle(self, name: str, colour: str) -> Any:
        blueprint = self._world.get_blueprint_library().find(name)
        if blueprint.has_attribute("color"):
            blueprint.set_attribute("color", colour)
        return blueprint

    def _add(self, actor: Any) -> None:
        extent = actor.bounding_box.extent
        self._boxes[actor.id] = (extent.x, extent.y)

    def act(self, snapshot: Any, ego: Any) -> None:
        """Send the pedestrians off, or stop them, by where everybody was in the last frame.

        Args:
          ego: the ego vehicle's location.
        """
        for walker in list(self._waiting):
            state = snapshot.find(walker.number)
            if state and math.dist((ego.x, ego.y), walker.start) < walker.trigger:
                self._actor(walker).apply_control(walker.control)
                self._waiting.remove(walker)
                self._crossing.append(walker)
        for walker in list(self._crossing):
            state = snapshot.find(walker.number)
            place = state.get_transform().location if state else None
            if place is None or math.dist((place.x, place.y), walker.start) >= walker.crossing:
                self._crossing.remove(walker)
                if place is not None:
                    self._actor(walker).apply_control(carla.WalkerControl())

    def _actor(self, walker: Walker) -> Any:
        actor = self._world.get_actor(walker.number)
        if actor is None:
            raise Fault("actors", f"pedestrian {walker.number} is gone")
        return actor

    def touching(self, snapshot: Any, ego: Box, margin: float) -> int:
        """How many of them are nearer than ``margin`` m to the box of the ego vehicle."""
        count = 0
        for number, (half_length, half_width) in self._boxes.items():
            state = snapshot.find(number)
            if state is None:
                continue
            pose = state.get_transform()
            if math.dist((pose.location.x, pose.location.y), (ego.x, ego.y)) < _REACH:
                yaw = math.radians(pose.rotation.yaw)
                box = Box(pose.location.x, pose.location.y, yaw, half_length, half_width)
                count += overlap(ego, box).depth > -margin
        return count


def lane_place(world_map: Any, road: int, lane: int, s: float) -> Any:
    """A waypoint by road, lane and metres. Raises Fault where the map has none."""
    waypoint = world_map.get_waypoint_xodr(road, lane, s)
    if waypoint is None:
        raise Fault("map", f"{world_map.name} has no road {road}, lane {lane}, s {s:.1f}")
    return waypoint


def free_port() -> int:
    """A port that nobody listens on now; the Traffic Manager tries a taken one for ten seconds before it gives up."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
