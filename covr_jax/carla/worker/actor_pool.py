"""All road users except the ego vehicle: traffic, parked vans, pedestrians."""

from __future__ import annotations

import math
import socket
from typing import Any, NamedTuple

from covr_jax.carla.boxes import Box, overlap
from covr_jax.carla.scenarios import Driver, Episode, Ghost, Ghosts, Scenario
from covr_jax.carla.worker.carla_import import carla
from covr_jax.carla.worker.failures import Fault
from covr_jax.carla.worker.lanes import lane_waypoint

LIFT = 0.3  # m above the road at which vehicles are spawned, from where they drop
_WALKER_LIFT = 1.0  # m
_REACH = 12.0  # m between two centres beyond which no two actors touch


class Walker(NamedTuple):
    """A pedestrian who crosses the road when the ego vehicle comes near."""

    actor_id: int
    trigger: float  # m, distance of the ego vehicle at which the pedestrian starts
    control: Any  # carla.WalkerControl that crosses the road
    crossing: float  # m, distance to walk
    start: tuple[float, float]  # m


class ActorPool:
    """The actors of one episode; ``clear`` removes them."""

    def __init__(self, client: Any, world: Any, scenario: Scenario):
        self._client, self._world, self._map, self._scenario = client, world, world.get_map(), scenario
        self._half_sizes: dict[int, tuple[float, float]] = {}  # half length and half width in m by actor id
        self._waiting: list[Walker] = []
        self._crossing: list[Walker] = []
        self._manager: Any = None
        if scenario.traffic:
            self._port = free_port()
            self._manager = client.get_trafficmanager(self._port)
            self._manager.set_synchronous_mode(True)

    def clear(self) -> None:
        """Removes all actors; actors that are gone already are no error."""
        if self._half_sizes:
            commands = [carla.command.DestroyActor(actor_id) for actor_id in self._half_sizes]
            self._client.apply_batch_sync(commands, False)
        self._half_sizes, self._waiting, self._crossing = {}, [], []

    def close(self) -> None:
        """Ends the Traffic Manager.

        It stays in synchronous mode: with a clock of its own it would look up vehicles that are gone.
        """
        if self._manager is not None:
            self._manager.shut_down()

    def spawn(self, episode: Episode) -> None:
        """Spawns the episode's actors; actors without free room are left out."""
        if episode.drivers:
            self._manager.set_random_device_seed(episode.traffic_seed)
            self._spawn_drivers(episode.drivers)
        if self._scenario.ghosts:
            for ghost in episode.ghosts:
                self._spawn_ghost(self._scenario.ghosts, ghost)

    def _spawn_drivers(self, drivers: tuple[Driver, ...]) -> None:
        commands = []
        for driver in drivers:
            transform = lane_waypoint(self._map, self._scenario.road, driver.lane, driver.s).transform
            transform.location.z += LIFT
            commands.append(carla.command.SpawnActor(self._vehicle(driver.blueprint, driver.colour), transform))
        replies = self._client.apply_batch_sync(commands, False)
        spawned = {reply.actor_id: driver for reply, driver in zip(replies, drivers, strict=True) if not reply.error}
        for vehicle in self._world.get_actors(list(spawned)):
            self._add(vehicle)
            vehicle.set_autopilot(True, self._port)
            driver = spawned[vehicle.id]
            self._manager.vehicle_percentage_speed_difference(vehicle, driver.speed_difference)
            self._manager.auto_lane_change(vehicle, True)
            self._manager.ignore_lights_percentage(vehicle, 100.0)
            self._manager.ignore_signs_percentage(vehicle, 100.0)

    def _spawn_ghost(self, ghosts: Ghosts, ghost: Ghost) -> None:
        van_transform = self._roadside(ghosts, ghost.s)
        van_transform.location.z += LIFT
        van = self._world.try_spawn_actor(self._vehicle(ghost.blueprint, ghost.colour), van_transform)
        if van is None:
            return
        self._add(van)
        van.apply_control(carla.VehicleControl(hand_brake=True))
        blueprints = sorted(self._world.get_blueprint_library().filter(ghosts.walkers), key=lambda found: found.id)
        blueprint = blueprints[ghost.walker % len(blueprints)]
        if blueprint.has_attribute("is_invincible"):
            blueprint.set_attribute("is_invincible", "false")
        transform = self._roadside(ghosts, ghost.s + ghosts.behind)
        right = transform.get_right_vector()
        transform.location.z += _WALKER_LIFT
        transform.rotation.yaw -= 90.0  # towards the road
        walker = self._world.try_spawn_actor(blueprint, transform)
        if walker is None:
            return
        self._add(walker)
        control = carla.WalkerControl(carla.Vector3D(-right.x, -right.y, 0.0), ghost.speed, False)
        start = (transform.location.x, transform.location.y)
        self._waiting.append(Walker(walker.id, ghost.trigger, control, ghosts.crossing, start))

    def _roadside(self, ghosts: Ghosts, s: float) -> Any:
        """The carla.Transform at ``s`` in the row of parked vans."""
        transform = lane_waypoint(self._map, self._scenario.road, ghosts.lane, s).transform
        right = transform.get_right_vector()
        transform.location += carla.Location(x=right.x * ghosts.sideways, y=right.y * ghosts.sideways)
        return transform

    def _vehicle(self, name: str, colour: str) -> Any:
        blueprint = self._world.get_blueprint_library().find(name)
        if blueprint.has_attribute("color"):
            blueprint.set_attribute("color", colour)
        return blueprint

    def _add(self, actor: Any) -> None:
        extent = actor.bounding_box.extent
        self._half_sizes[actor.id] = (extent.x, extent.y)

    def control_walkers(self, snapshot: Any, ego: Any) -> None:
        """Starts and stops pedestrians by the positions in the last frame.

        Args:
          snapshot: carla.WorldSnapshot of the last frame.
          ego: carla.Location of the ego vehicle.
        """
        for walker in list(self._waiting):
            state = snapshot.find(walker.actor_id)
            if state and math.dist((ego.x, ego.y), walker.start) < walker.trigger:
                self._actor(walker).apply_control(walker.control)
                self._waiting.remove(walker)
                self._crossing.append(walker)
        for walker in list(self._crossing):
            state = snapshot.find(walker.actor_id)
            location = state.get_transform().location if state else None
            if location is None or math.dist((location.x, location.y), walker.start) >= walker.crossing:
                self._crossing.remove(walker)
                if location is not None:
                    self._actor(walker).apply_control(carla.WalkerControl())

    def _actor(self, walker: Walker) -> Any:
        actor = self._world.get_actor(walker.actor_id)
        if actor is None:
            raise Fault("actors", f"pedestrian {walker.actor_id} is gone")
        return actor

    def count_near(self, snapshot: Any, ego: Box, margin: float) -> int:
        """Counts the actors that are nearer than ``margin`` m to the box of the ego vehicle."""
        count = 0
        for actor_id, (half_length, half_width) in self._half_sizes.items():
            state = snapshot.find(actor_id)
            if state is None:
                continue
            transform = state.get_transform()
            x, y = transform.location.x, transform.location.y
            if math.dist((x, y), (ego.x, ego.y)) < _REACH:
                box = Box(x, y, math.radians(transform.rotation.yaw), half_length, half_width)
                count += overlap(ego, box).depth > -margin
        return count


def free_port() -> int:
    """Returns a free port; with a taken one the Traffic Manager tries for ten seconds before it fails."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
