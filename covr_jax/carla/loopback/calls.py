"""The remote procedures of a CARLA 0.9.16 server that the client needs, over one loopback world.

A method's name is the procedure's, its arguments are the wire's; see ``wire`` for the shape of replies.
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
# torque curve, largest rpm, moments of inertia and damping, clutch, gears, mass, drag, centre of mass, steering curve,
# wheels, sweep collision
_PHYSICS = [
    [[0.0, 500.0], [5000.0, 500.0]], 5000.0, 1.0, 0.15, 2.0, 0.35, True, 0.5, 10.0, 4.0, [], 1500.0, 0.3,
    [0.0, 0.0, 0.0], [[0.0, 1.0], [10.0, 0.5]], _WHEELS, False,
]  # fmt: skip
_GONE = "actor not found"


class Calls(MiscRpc):
    """Answers to the client.

    Args:
      version: what the server claims to be. stream_port: where sensor data is to be had.
      tick: moves the world on by one step and sends what the sensors saw; returns the new frame's number.
      loaded: is called when a new episode has begun.
    """

    def __init__(
        self, world: World, version: str, stream_port: int, tick: Callable[[], int], loaded: Callable[[], None]
    ):
        super().__init__(world)
        self._version, self._port, self._tick, self._loaded = version, stream_port, tick, loaded

    # -------------------------------------------------------------- the server

    def version(self) -> Any:
        """The server's version."""
        return wire.value(self._version)

    def get_available_maps(self) -> Any:
        """Names of the maps that can be loaded."""
        return wire.value([self._world.map_name])

    def get_map_info(self) -> Any:
        """Name of the map and where vehicles may start."""
        return wire.value([self._world.map_name, self._world.spawn_points()])

    def get_map_data(self) -> Any:
        """The map as OpenDRIVE text."""
        return wire.value(self._world.xodr)

    def get_required_files(self, folder: str) -> Any:
        """Files that the client should have; none."""
        del folder
        return wire.value([])

    def get_episode_info(self) -> Any:
        """Number of the episode and the token of its stream."""
        return wire.value([self._world.episode, [wire.token(wire.WORLD_STREAM, self._port)]])

    def get_episode_settings(self) -> Any:
        """Synchronous mode, time step and the rest."""
        return wire.value(self._world.settings)

    def set_episode_settings(self, settings: list[Any]) -> Any:
        """Replace the settings; the frame from which they hold."""
        self._world.settings = settings
        return wire.value(self._world.frame)

    def load_new_episode(self, name: str, *options: Any) -> Any:
        """Load a map and begin a new episode."""
        del options
        if name.split("/")[-1] != self._world.map_name.split("/")[-1]:
            return wire.undone(f"map not found: {name}")
        self._world.begin()
        self._loaded()
        return wire.done()

    def tick_cue(self) -> Any:
        """Simulate one step in synchronous mode; its frame."""
        return wire.value(self._tick())

    def get_weather_parameters(self) -> Any:
        """The weather."""
        return wire.value(self._world.weather)

    def set_weather_parameters(self, weather: list[float]) -> Any:
        """Replace the weather."""
        self._world.weather = weather
        return wire.done()

    # ------------------------------------------------------------------ actors

    def describe(self, actor: Actor) -> list[Any]:
        """An actor as the client sees it: numbers, blueprint, bounding box, tags and its stream."""
        length, width, height, _ = actor.size
        middle = [0.0, 0.0, height / 2 if actor.is_vehicle else 0.0]
        box = [middle, [length / 2, width / 2, height / 2], [0.0, 0.0, 0.0], actor.number]
        sensor = actor.name.startswith("sensor.")
        stream = wire.token(stream_of(actor), self._port) if sensor else b""
        return [actor.number, actor.parent, actor.description, box, b"", stream]

    def get_actor_definitions(self) -> Any:
        """The blueprints."""
        return wire.value(BLUEPRINTS)

    def get_spectator(self) -> Any:
        """The spectator's description."""
        return wire.value(self.describe(self._world.spectator))

    def get_actors_by_id(self, numbers: list[int]) -> Any:
        """Descriptions of some actors."""
        actors = self._world.actors
        return wire.value([self.describe(actors[number]) for number in numbers if number in actors])

    def get_actor_bounding_box(self, number: int) -> Any:
        """An actor's box."""
        actor = self._world.actors.get(number)
        return wire.refusal(_GONE) if actor is None else wire.value(self.describe(actor)[3])

    def get_sensor_token(self, stream: int) -> Any:
        """The token of a sensor's stream."""
        return wire.value([wire.token(stream, self._port)])

    def spawn_actor(self, description: list[Any], transform: wire.Transform) -> Any:
        """Place an actor."""
        if not self._world.free(description, transform):
            return wire.refusal("Spawn failed because of collision at spawn position")
        return wire.value(self.describe(self._world.add(description, transform)))

    def spawn_actor_with_parent(
        self, description: list[Any], transform: wire.Transform, parent: int, attachment: int, *options: Any
    ) -> Any:
        """Place an actor on another one."""
        del attachment, options
        if parent not in self._world.actors:
            return wire.refusal("unable to spawn actor: parent actor not found")
        return wire.value(self.describe(self._world.add(description, transform, parent)))

    def destroy_actor(self, number: int) -> Any:
        """Remove an actor."""
        return wire.value(self._world.actors.pop(number, None) is not None)

    def get_physics_control(self, number: int) -> Any:
        """A vehicle's physics parameters."""
        actor = self._world.actors.get(number)
        return wire.refusal(_GONE) if actor is None else wire.value(actor.physics or _PHYSICS)

    def apply_physics_control(self, number: int, control: list[Any]) -> Any:
        """Replace a vehicle's physics parameters; kept, of no effect: the vehicles are kinematic."""
        return self._set(number, "physics", control)

    def apply_control_to_vehicle(self, number: int, control: list[Any]) -> Any:
        """Steering, throttle and brake of a vehicle."""
        return self._set(number, "control", control)

    def apply_control_to_walker(self, number: int, control: list[Any]) -> Any:
        """Direction and speed of a walker."""
        return self._set(number, "walk", control)

    def set_actor_transform(self, number: int, transform: wire.Transform) -> Any:
        """Move an actor."""
        return self._set(number, "transform", [list(part) for part in transform])

    def set_actor_simulate_physics(self, number: int, enabled: bool) -> Any:
        """Whether an actor moves by physics."""
        return self._set(number, "frozen", not enabled)

    def set_actor_target_velocity(self, number: int, velocity: list[float]) -> Any:
        """The velocity that an actor takes on, m/s."""
        self._set(number, "speed", math.hypot(*velocity[:2]))
        return self._set(number, "velocity", list(velocity))

    def _set(self, number: int, name: str, setting: Any) -> Any:
        actor = self._world.actors.get(number)
        if actor is None:
            return wire.undone(_GONE)
        setattr(actor, name, setting)
        return wire.done()

    def set_actor_target_angular_velocity(self, number: int, velocity: list[float]) -> Any:
        """Accepted and ignored, as the five below are: nothing of the kind exists here."""
        del number, velocity
        return wire.done()

    def set_actor_enable_gravity(self, number: int, enabled: bool) -> Any:
        """Whether an actor falls; kept, of no effect here."""
        del number, enabled
        return wire.done()

    def set_actor_collisions(self, number: int, enabled: bool) -> Any:
        """Whether an actor collides."""
        del number, enabled
        return wire.done()

    def set_vehicle_light_state(self, number: int, lights: int) -> Any:
        """A vehicle's lights."""
        del number, lights
        return wire.done()

    def set_actor_autopilot(self, number: int, enabled: bool) -> Any:
        """Hand a vehicle to the Traffic Manager, or take it back."""
        del number, enabled
        return wire.done()

    def apply_batch(self, commands: list[Any], tick: bool = False) -> Any:
        """Several commands, and a step after them if asked."""
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
        elif kind != wire.AUTOPILOT:  # which is the Traffic Manager's, and that lives in the client
            return wire.refusal(f"the loopback server has no batch command {kind}")
        return wire.value(number)


def stream_of(actor: Actor) -> int:
    """The number of a sensor's stream."""
    return 100 + actor.number
