"""The remote procedures of a CARLA 0.9.16 server that the client needs, on one loopback world.

Methods have the names and arguments of the procedures; see ``wire`` for the form of replies.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from covr_jax.carla.loopback import wire
from covr_jax.carla.loopback.actors import BLUEPRINTS, Actor
from covr_jax.carla.loopback.misc_rpc import MiscRpc
from covr_jax.carla.loopback.world import World

_WHEELS = [
    [2.0, 0.25, 70.0, 35.0, 1500.0, 3000.0, 2.0, 17.0, 1000.0, [x, y, 0.0]]
    for x, y in ((140.0, -80.0), (140.0, 80.0), (-140.0, -80.0), (-140.0, 80.0))
]
# torque curve, max rpm, moments of inertia and damping, clutch, gears, mass, drag, centre of mass, steering curve,
# wheels, sweep collision
_PHYSICS = [
    [[0.0, 500.0], [5000.0, 500.0]], 5000.0, 1.0, 0.15, 2.0, 0.35, True, 0.5, 10.0, 4.0, [], 1500.0, 0.3,
    [0.0, 0.0, 0.0], [[0.0, 1.0], [10.0, 0.5]], _WHEELS, False,
]  # fmt: skip
_GONE = "actor not found"


class Calls(MiscRpc):
    """All remote procedures of the loopback server.

    Args:
      world: the simulated state.
      version: version that the server reports.
      stream_port: port of the sensor data.
      tick: runs one time step, sends the sensor data and returns the new frame number.
      loaded: called when a new episode has begun.
    """

    def __init__(
        self, world: World, version: str, stream_port: int, tick: Callable[[], int], loaded: Callable[[], None]
    ):
        super().__init__(world)
        self._version, self._port, self._tick, self._loaded = version, stream_port, tick, loaded

    def version(self) -> Any:
        """Version that the server reports."""
        return wire.value(self._version)

    def get_available_maps(self) -> Any:
        """Names of the maps that can be loaded."""
        return wire.value([self._world.map_name])

    def get_map_info(self) -> Any:
        """Name of the map and spawn points of vehicles."""
        return wire.value([self._world.map_name, self._world.spawn_points()])

    def get_map_data(self) -> Any:
        """The map as OpenDRIVE text."""
        return wire.value(self._world.xodr)

    def get_required_files(self, folder: str) -> Any:
        """Files that the client should have; there are none."""
        del folder
        return wire.value([])

    def get_episode_info(self) -> Any:
        """Number of the episode and token of its stream."""
        return wire.value([self._world.episode, [wire.token(wire.WORLD_STREAM, self._port)]])

    def get_episode_settings(self) -> Any:
        """Episode settings: synchronous mode, time step and others."""
        return wire.value(self._world.settings)

    def set_episode_settings(self, settings: list[Any]) -> Any:
        """Replaces the settings; returns the frame from which they hold."""
        self._world.settings = settings
        return wire.value(self._world.frame)

    def load_new_episode(self, name: str, *options: Any) -> Any:
        """Loads a map and starts a new episode."""
        del options
        if name.split("/")[-1] != self._world.map_name.split("/")[-1]:
            return wire.void_error(f"map not found: {name}")
        self._world.begin()
        self._loaded()
        return wire.void()

    def tick_cue(self) -> Any:
        """Runs one time step in synchronous mode; returns its frame."""
        return wire.value(self._tick())

    def get_weather_parameters(self) -> Any:
        """Weather parameters."""
        return wire.value(self._world.weather)

    def set_weather_parameters(self, weather: list[float]) -> Any:
        """Replaces the weather parameters."""
        self._world.weather = weather
        return wire.void()

    def describe(self, actor: Actor) -> list[Any]:
        """The client's record of an actor: ids, blueprint, bounding box, tags and stream."""
        length, width, height, _ = actor.size
        centre = [0.0, 0.0, height / 2 if actor.is_vehicle else 0.0]
        box = [centre, [length / 2, width / 2, height / 2], [0.0, 0.0, 0.0], actor.number]
        sensor = actor.name.startswith("sensor.")
        stream = wire.token(stream_of(actor), self._port) if sensor else b""
        return [actor.number, actor.parent, actor.description, box, b"", stream]

    def get_actor_definitions(self) -> Any:
        """All blueprints."""
        return wire.value(BLUEPRINTS)

    def get_spectator(self) -> Any:
        """Record of the spectator."""
        return wire.value(self.describe(self._world.spectator))

    def get_actors_by_id(self, numbers: list[int]) -> Any:
        """Records of some actors."""
        actors = self._world.actors
        return wire.value([self.describe(actors[number]) for number in numbers if number in actors])

    def get_actor_bounding_box(self, number: int) -> Any:
        """Bounding box of an actor."""
        actor = self._world.actors.get(number)
        return wire.value_error(_GONE) if actor is None else wire.value(self.describe(actor)[3])

    def get_sensor_token(self, stream: int) -> Any:
        """Token of a sensor's stream."""
        return wire.value([wire.token(stream, self._port)])

    def spawn_actor(self, description: list[Any], transform: wire.Transform) -> Any:
        """Spawns an actor."""
        if not self._world.has_room(description, transform):
            return wire.value_error("Spawn failed because of collision at spawn position")
        return wire.value(self.describe(self._world.add(description, transform)))

    def spawn_actor_with_parent(
        self, description: list[Any], transform: wire.Transform, parent: int, attachment: int, *options: Any
    ) -> Any:
        """Spawns an actor attached to another one."""
        del attachment, options
        if parent not in self._world.actors:
            return wire.value_error("unable to spawn actor: parent actor not found")
        return wire.value(self.describe(self._world.add(description, transform, parent)))

    def destroy_actor(self, number: int) -> Any:
        """Removes an actor."""
        return wire.value(self._world.actors.pop(number, None) is not None)

    def get_physics_control(self, number: int) -> Any:
        """Physics parameters of a vehicle."""
        actor = self._world.actors.get(number)
        return wire.value_error(_GONE) if actor is None else wire.value(actor.physics or _PHYSICS)

    def apply_physics_control(self, number: int, control: list[Any]) -> Any:
        """Replaces a vehicle's physics parameters; stored without effect, since vehicles are kinematic."""
        return self._set(number, "physics", control)

    def apply_control_to_vehicle(self, number: int, control: list[Any]) -> Any:
        """Sets throttle, steering and brake of a vehicle."""
        return self._set(number, "control", control)

    def apply_control_to_walker(self, number: int, control: list[Any]) -> Any:
        """Sets direction and speed of a walker."""
        return self._set(number, "walk", control)

    def set_actor_transform(self, number: int, transform: wire.Transform) -> Any:
        """Sets the pose of an actor."""
        return self._set(number, "transform", [list(part) for part in transform])

    def set_actor_simulate_physics(self, number: int, enabled: bool) -> Any:
        """Sets whether an actor moves by physics."""
        return self._set(number, "frozen", not enabled)

    def set_actor_target_velocity(self, number: int, velocity: list[float]) -> Any:
        """Sets the velocity of an actor in m/s."""
        self._set(number, "speed", math.hypot(*velocity[:2]))
        return self._set(number, "velocity", list(velocity))

    def _set(self, number: int, name: str, setting: Any) -> Any:
        actor = self._world.actors.get(number)
        if actor is None:
            return wire.void_error(_GONE)
        setattr(actor, name, setting)
        return wire.void()

    def set_actor_target_angular_velocity(self, number: int, velocity: list[float]) -> Any:
        """Sets the angular velocity of an actor; accepted without effect."""
        del number, velocity
        return wire.void()

    def set_actor_enable_gravity(self, number: int, enabled: bool) -> Any:
        """Sets whether an actor falls; accepted without effect."""
        del number, enabled
        return wire.void()

    def set_actor_collisions(self, number: int, enabled: bool) -> Any:
        """Sets whether an actor collides; accepted without effect."""
        del number, enabled
        return wire.void()

    def set_vehicle_light_state(self, number: int, lights: int) -> Any:
        """Sets a vehicle's lights; accepted without effect."""
        del number, lights
        return wire.void()

    def set_actor_autopilot(self, number: int, enabled: bool) -> Any:
        """Sets whether the Traffic Manager drives a vehicle; accepted without effect."""
        del number, enabled
        return wire.void()

    def apply_batch(self, commands: list[Any], tick: bool = False) -> Any:
        """Runs several commands, and then one time step where ``tick`` is set."""
        replies = [self._command(*command[0]) for command in commands]
        if tick:
            self._tick()
        return replies

    def _command(self, kind: int, arguments: list[Any]) -> Any:
        if kind == wire.SPAWN:
            description, transform, parent = arguments[:3]
            attached = len(parent) == 2
            reply = (
                self.spawn_actor_with_parent(description, transform, parent[1], 0)
                if attached
                else self.spawn_actor(description, transform)
            )
            return [[1, reply[0][1][0]]] if reply[0][0] == 1 else reply
        number = arguments[0]
        if kind == wire.DESTROY:
            self._world.actors.pop(number, None)
        elif kind == wire.VEHICLE_CONTROL:
            self.apply_control_to_vehicle(*arguments)
        elif kind == wire.WALKER_CONTROL:
            self.apply_control_to_walker(*arguments)
        elif kind != wire.AUTOPILOT:  # the Traffic Manager runs in the client
            return wire.value_error(f"the loopback server has no batch command {kind}")
        return wire.value(number)


def stream_of(actor: Actor) -> int:
    """Number of a sensor's stream."""
    return 100 + actor.number
