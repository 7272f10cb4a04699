"""One client, one simulated world, one ego vehicle: connect, load a map, then run episodes.

The simulator runs in synchronous mode at 20 ticks a second, and only this client advances its clock: a frame number
that jumps shows that another client does too, which is a fault. All randomness comes from ``scenarios.draw``.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np
from jaxtyping import UInt8

from covr_jax.carla import scenarios
from covr_jax.carla.boxes import Box
from covr_jax.carla.channel import SessionSetup, StepResult, WorkerInfo
from covr_jax.carla.reward import DT, Progress, Tick, end_reason
from covr_jax.carla.worker.actor_pool import LIFT, ActorPool
from covr_jax.carla.worker.carla_import import carla
from covr_jax.carla.worker.failures import Fault, Refusal
from covr_jax.carla.worker.lanes import lane_at, lane_direction, lane_waypoint
from covr_jax.carla.worker.sensors import Camera, CollisionSensor
from covr_jax.carla.worker.server_compat import hide_scenery, set_gear_switch_time, show_scenery

_PAUSE_S = 0.2  # between two attempts to reach the server
_SETTLING_TICKS, _WARM_UP_TICKS = 2, 5
_LOOK_AHEAD = 5.0  # m of lane that must follow the vehicle
_GRACE_S, _TOUCH = 0.02, 0.3  # s to wait for a late collision event while an actor is nearer than _TOUCH m
_CONTROL_ERROR = 1e-5  # rounding of numbers that are sent there and back in single precision
_OWN_ACTORS = ("vehicle.*", "walker.*", "sensor.*", "controller.*")


class Session:
    """All state of the child process.

    Attributes:
      info: versions of the client and the server.

    Raises:
      Refusal: on construction, where the server is of another version; by ``load``, where it has none of the maps.
      Fault, RuntimeError: where the server or the client fails. The session cannot be used afterwards.
    """

    def __init__(self, setup: SessionSetup):
        self._setup = setup
        self._scenario = scenarios.SCENARIOS[setup.scenario]
        profile = scenarios.PROFILES[setup.profile]
        skip = setup.frame_skip or profile.rules.frame_skip
        self._profile = profile._replace(rules=profile.rules._replace(max_ticks=setup.max_ticks, frame_skip=skip))
        self._client = carla.Client(setup.host, setup.port)
        self._client.set_timeout(setup.call_s)
        self.info = WorkerInfo(self._client.get_client_version(), self._wait_for_server())
        if self.info.client_version != self.info.server_version and not setup.any_version:
            raise Refusal(
                f"the server is CARLA {self.info.server_version}, the client {self.info.client_version};"
                " allow_version_mismatch=True goes on nevertheless"
            )
        self._cameras: list[Camera] = []
        self._ego: Any = None
        self._frame = 0
        self._snapshot: Any = None
        self._ego_state: Any = None
        self._progress = Progress()

    def _wait_for_server(self) -> str:
        """Returns the server's version. It is the first call, since others hold the interpreter while they wait."""
        end = time.monotonic() + self._setup.connect_s
        while True:
            try:
                return self._client.get_server_version()
            except RuntimeError as error:
                if "time-out" not in str(error):
                    raise
                if time.monotonic() > end:
                    address = f"{self._setup.host}:{self._setup.port}"
                    raise Fault("no_server", f"no CARLA server answers at {address}") from None
            time.sleep(_PAUSE_S)

    def load(self) -> str:
        """Loads the map and returns its name; see ``channel.Load``."""
        world = self._client.get_world()
        self._found_settings = world.get_settings()
        if self._found_settings.synchronous_mode:  # a killed client left it so: a server starts with its own clock
            self._found_settings.synchronous_mode, self._found_settings.fixed_delta_seconds = False, None
        offered = {name.split("/")[-1]: name for name in self._client.get_available_maps()}
        town = next((town for town in self._scenario.towns if town in offered), None)
        if town is None:
            raise Refusal(f"the server has none of the maps {', '.join(self._scenario.towns)}")
        if world.get_map().name.split("/")[-1] != town:
            world.apply_settings(self._found_settings)  # in synchronous mode without ticks no map would load
            self._client.set_timeout(self._setup.load_s)
            world = self._client.load_world(offered[town])
            self._client.set_timeout(self._setup.call_s)
        self._take_over(world)
        return town

    def _take_over(self, world: Any) -> None:
        """Takes over the clock and removes the actors of earlier clients."""
        self._world, self._map = world, world.get_map()
        settings = world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, DT
        world.apply_settings(settings)
        self._frame = world.tick(self._setup.call_s)
        actors = world.get_actors()
        leftovers = [actor.id for pattern in _OWN_ACTORS for actor in actors.filter(pattern)]
        self._client.apply_batch_sync([carla.command.DestroyActor(actor_id) for actor_id in leftovers], False)
        self._hidden = hide_scenery(world, self._profile.hidden)
        self._actor_pool = ActorPool(self._client, world, self._scenario)

    def reset(self, seed: int, episode: int) -> UInt8[np.ndarray, "H W 3"]:
        """Starts an episode and returns its first image; the ego vehicle and its sensors are kept."""
        drawn = scenarios.draw(self._scenario, seed, episode)
        self._actor_pool.clear()
        self._set_weather(0)
        self._reset_ego(drawn)
        for _ in range(_SETTLING_TICKS):
            self._advance()
        self._actor_pool.spawn(drawn)
        for _ in range(_WARM_UP_TICKS):
            self._advance()
        self._collisions.clear()
        self._progress = Progress()
        return self._image(fresh=True)

    def _reset_ego(self, drawn: scenarios.Episode) -> None:
        transform = lane_waypoint(self._map, self._scenario.road, drawn.lane, drawn.s).transform
        transform.location.z += LIFT
        ego = self._ego if self._ego is not None else self._spawn_ego(transform)
        ego.apply_control(carla.VehicleControl(brake=1.0))  # or the last episode's control would stay in force
        ego.set_transform(transform)
        ego.set_target_velocity(carla.Vector3D())
        ego.set_target_angular_velocity(carla.Vector3D())

    def _spawn_ego(self, transform: Any) -> Any:
        """Spawns the ego vehicle with its sensors; they are kept for all episodes."""
        blueprint = self._world.get_blueprint_library().find(self._profile.ego)
        blueprint.set_attribute("role_name", "hero")
        self._ego = self._world.spawn_actor(blueprint, transform)
        if self._profile.gear_switch_s is not None:
            set_gear_switch_time(self._ego, self._profile.gear_switch_s)
        rig = self._profile.rig
        self._cameras = [Camera(self._world, self._ego, rig, yaw, self._setup.image_size) for yaw in rig.yaws]
        self._collisions = CollisionSensor(self._world, self._ego)
        extent = self._ego.bounding_box.extent
        self._half_size = (extent.x, extent.y)
        return self._ego

    def step(self, steer: float, throttle: float, brake: float) -> StepResult:
        """Runs one agent step, of fewer ticks where the episode ends."""
        ticks: list[Tick] = []
        rules = self._profile.rules
        self._ego.apply_control(carla.VehicleControl(throttle=throttle, steer=steer, brake=brake))
        while True:
            if self._setup.weather == scenarios.CHANGING:
                self._set_weather(self._progress.ticks)
            self._advance()
            self._check_control(throttle, steer, brake)
            image = self._image()
            ticks.append(self._tick(steer, brake))
            self._progress = self._progress.after(ticks[-1])
            end = end_reason(rules, self._progress, ticks[-1])
            if end is not None or len(ticks) >= rules.frame_skip:
                late = {"pictures": sum(camera.late for camera in self._cameras), "collisions": self._collisions.late}
                return StepResult(ticks, end, image, late)

    def _advance(self) -> None:
        """Runs one tick, before which the pedestrians react to the last frame."""
        if self._ego_state is not None:
            self._actor_pool.control_walkers(self._snapshot, self._ego_state.get_transform().location)
        frame = self._world.tick(self._setup.call_s)
        if frame != self._frame + 1:
            raise Fault("clock", f"frame {frame} after {self._frame}: somebody else moves this server's clock")
        self._frame = frame
        self._snapshot = self._world.get_snapshot()
        self._ego_state = self._snapshot.find(self._ego.id)
        if self._snapshot.frame != frame or self._ego_state is None:
            raise Fault("actors", f"the ego vehicle is not in frame {frame}")

    def _check_control(self, *wanted: float) -> None:
        """Raises Fault where the vehicle used another control: the client sends it without waiting for a reply."""
        control = self._ego.get_control()
        used = (control.throttle, control.steer, control.brake)
        if max(abs(a - b) for a, b in zip(wanted, used, strict=True)) > _CONTROL_ERROR:
            raise Fault("control", f"throttle, steer, brake were {used} in frame {self._frame}, not {wanted}")

    def _image(self, fresh: bool = False) -> UInt8[np.ndarray, "H W 3"]:
        """Image of the current frame, cameras side by side; ``fresh``: earlier images were not fetched."""
        images = [camera.image(self._frame, self._setup.call_s, fresh) for camera in self._cameras]
        return np.ascontiguousarray(np.concatenate(images, axis=1))

    def _tick(self, steer: float, brake: float) -> Tick:
        transform, velocity = self._ego_state.get_transform(), self._ego_state.get_velocity()
        location = transform.location
        box = Box(location.x, location.y, math.radians(transform.rotation.yaw), *self._half_size)
        expected = self._actor_pool.count_near(self._snapshot, box, _TOUCH)
        waypoint = lane_at(self._map, location)
        ahead = waypoint.next(_LOOK_AHEAD) if waypoint else []
        return Tick(
            velocity=(velocity.x, velocity.y, velocity.z),
            lane=lane_direction(waypoint, ahead, self._profile.rules.look_ahead),
            height=location.z - waypoint.transform.location.z if waypoint else 0.0,
            impulses=self._collisions.impulses(self._frame, expected, _GRACE_S),
            steer=steer,
            brake=brake,
            on_road=waypoint is not None,
            road_ahead=bool(ahead),
        )

    def _set_weather(self, ticks: int) -> None:
        fields = scenarios.weather(self._setup.weather, ticks)
        self._world.set_weather(carla.WeatherParameters(**fields))

    def close(self) -> None:
        """Removes all own actors and gives the clock back; see ``channel.Close``.

        Sensors are removed before the vehicle that carries them; a last tick shows the changes to other clients.
        """
        self._actor_pool.clear()
        if self._ego is not None:
            for sensor in [*self._cameras, self._collisions]:
                sensor.actor.stop()
                sensor.actor.destroy()
            self._ego.destroy()
        show_scenery(self._world, self._hidden)
        self._world.tick(self._setup.call_s)
        self._actor_pool.close()
        self._world.apply_settings(self._found_settings)
