"""One client, one world, one ego vehicle: connect, load, then episodes.

The world runs in synchronous mode at 20 ticks a second, and only this client moves its clock: a frame number that jumps
means that somebody else does too, which is a fault. All chance comes from ``scenarios.draw``.
"""

from __future__ import annotations

import math
import time
from typing import Any

import numpy as np

from covr_jax.carla import scenarios
from covr_jax.carla.boxes import Box
from covr_jax.carla.channel import SessionSetup, Stepped, WorkerInfo
from covr_jax.carla.reward import DT, Progress, Tick, ended
from covr_jax.carla.worker.actor_pool import LIFT, ActorPool, lane_place
from covr_jax.carla.worker.carla_import import carla
from covr_jax.carla.worker.failures import Fault, Refusal
from covr_jax.carla.worker.sensors import Camera, Collisions
from covr_jax.carla.worker.server_compat import hide_scenery, quick_gears, show_scenery
from covr_jax.types import Array

_PAUSE_S = 0.2  # between two attempts to reach the server
_SETTLING_TICKS, _WARM_UP_TICKS = 2, 5
_LOOK_AHEAD = 5.0  # m of lane that must follow
_GRACE_S, _TOUCH = 0.02, 0.3  # s that a collision may come late where something is so near, m
_CONTROL_ERROR = 1e-5  # of numbers that cross twice in single precision
_LANE_ERROR = 0.01  # m, of the client's geometry in single precision
_OURS = ("vehicle.*", "walker.*", "sensor.*", "controller.*")


class Session:
    """Everything that the child holds.

    Raises:
      Refusal: on construction, where the server is of another version; by ``load``, where it lacks the map.
      Fault, RuntimeError: whenever the server or the client fails. The session is of no use afterwards.
    """

    def __init__(self, setup: SessionSetup):
        self._setup = setup
        self._scenario = scenarios.SCENARIOS[setup.scenario]
        profile = scenarios.PROFILES[setup.profile]
        skip = setup.frame_skip or profile.rules.frame_skip
        self._profile = profile._replace(rules=profile.rules._replace(max_ticks=setup.max_ticks, frame_skip=skip))
        self._client = carla.Client(setup.host, setup.port)
        self._client.set_timeout(setup.call_s)
        self.facts = WorkerInfo(self._client.get_client_version(), self._find_server())
        if self.facts.client_version != self.facts.server_version and not setup.any_version:
            raise Refusal(
                f"the server is CARLA {self.facts.server_version}, the client {self.facts.client_version};"
                " allow_version_mismatch=True goes on nevertheless"
            )
        self._cameras: list[Camera] = []
        self._ego: Any = None
        self._frame = 0
        self._snapshot: Any = None
        self._ego_state: Any = None
        self._progress = Progress()

    def _find_server(self) -> str:
        """The server's version; asked first, since other calls hold the interpreter while they wait."""
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

    # -------------------------------------------------------------------- load

    def load(self) -> str:
        """See ``channel.Load``."""
        world = self._client.get_world()
        self._found = world.get_settings()
        if self._found.synchronous_mode:  # left behind by a client that was killed: a server starts with its own clock
            self._found.synchronous_mode, self._found.fixed_delta_seconds = False, None
        offered = {name.split("/")[-1]: name for name in self._client.get_available_maps()}
        town = next((town for town in self._scenario.towns if town in offered), None)
        if town is None:
            raise Refusal(f"the server has none of the maps {', '.join(self._scenario.towns)}")
        if world.get_map().name.split("/")[-1] != town:
            world.apply_settings(self._found)  # a synchronous world that nobody ticks would not load
            self._client.set_timeout(self._setup.load_s)
            world = self._client.load_world(offered[town])
            self._client.set_timeout(self._setup.call_s)
        self._take_over(world)
        return town

    def _take_over(self, world: Any) -> None:
        self._world, self._map = world, world.get_map()
        settings = world.get_settings()
        settings.synchronous_mode, settings.fixed_delta_seconds = True, DT
        world.apply_settings(settings)
        self._frame = world.tick(self._setup.call_s)
        actors = world.get_actors()
        leftovers = [actor.id for pattern in _OURS for actor in actors.filter(pattern)]
        self._client.apply_batch_sync([carla.command.DestroyActor(number) for number in leftovers], False)
        self._hidden = hide_scenery(world, self._profile.hidden)
        self._company = ActorPool(self._client, world, self._scenario)

    # ----------------------------------------------------------------- episodes

    def reset(self, seed: int, episode: int) -> Array:
        """See ``channel.Reset``. The ego vehicle and its sensors are kept from episode to episode."""
        drawn = scenarios.draw(self._scenario, seed, episode)
        self._company.clear()
        self._weather(0)
        self._place_ego(drawn)
        for _ in range(_SETTLING_TICKS):
            self._advance()
        self._company.spawn(drawn)
        for _ in range(_WARM_UP_TICKS):
            self._advance()
        self._collisions.clear()
        self._progress = Progress()
        return self._picture(fresh=True)

    def _place_ego(self, drawn: scenarios.Episode) -> None:
        place = lane_place(self._map, self._scenario.road, drawn.lane, drawn.s).transform
        place.location.z += LIFT
        if self._ego is None:
            blueprint = self._world.get_blueprint_library().find(self._profile.ego)
            blueprint.set_attribute("role_name", "hero")
            self._ego = self._world.spawn_actor(blueprint, place)
            if self._profile.gear_switch_s is not None:
                quick_gears(self._ego, self._profile.gear_switch_s)
            rig = self._profile.rig
            self._cameras = [Camera(self._world, self._ego, rig, yaw, self._setup.image_size) for yaw in rig.yaws]
            self._collisions = Collisions(self._world, self._ego)
            extent = self._ego.bounding_box.extent
            self._half = (extent.x, extent.y)
        self._ego.apply_control(carla.VehicleControl(brake=1.0))  # the last episode's control would go on
        self._ego.set_transform(place)
        self._ego.set_target_velocity(carla.Vector3D())
        self._ego.set_target_angular_velocity(carla.Vector3D())

    def step(self, steer: float, throttle: float, brake: float) -> Stepped:
        """See ``channel.Step``."""
        ticks: list[Tick] = []
        rules, end, image = self._profile.rules, None, None
        self._ego.apply_control(carla.VehicleControl(throttle=throttle, steer=steer, brake=brake))
        while end is None and len(ticks) < rules.frame_skip:
            if self._setup.weather == scenarios.CHANGING:
                self._weather(self._progress.ticks)
            self._advance()
            self._obeyed(throttle, steer, brake)
            image = self._picture()
            ticks.append(self._tick(steer, brake))
            self._progress = self._progress.after(ticks[-1])
            end = ended(rules, self._progress, ticks[-1])
        late = {"pictures": sum(camera.late for camera in self._cameras), "collisions": self._collisions.late}
        return Stepped(ticks, end, image, late)

    def _advance(self) -> None:
        """One tick, in which the company acts on the last frame."""
        if self._ego_state is not None:
            self._company.act(self._snapshot, self._ego_state.get_transform().location)
        frame = self._world.tick(self._setup.call_s)
        if frame != self._frame + 1:
            raise Fault("clock", f"frame {frame} after {self._frame}: somebody else moves this server's clock")
        self._frame = frame
        self._snapshot = self._world.get_snapshot()
        self._ego_state = self._snapshot.find(self._ego.id)
        if self._snapshot.frame != frame or self._ego_state is None:
            raise Fault("actors", f"the ego vehicle is not in frame {frame}")

    def _obeyed(self, *wanted: float) -> None:
        """The client does not wait for what becomes of a control; a lost one shows in the state alone."""
        control = self._ego.get_control()
        used = (control.throttle, control.steer, control.brake)
        if max(abs(a - b) for a, b in zip(wanted, used, strict=True)) > _CONTROL_ERROR:
            raise Fault("control", f"throttle, steer, brake were {used} in frame {self._frame}, not {wanted}")

    def _picture(self, fresh: bool = False) -> Array:
        """u8[H,W*cameras,3] of the current frame; ``fresh``: nobody has looked at the last ones."""
        pictures = [camera.picture(self._frame, self._setup.call_s, fresh) for camera in self._cameras]
        return np.ascontiguousarray(np.concatenate(pictures, axis=1))

    def _tick(self, steer: float, brake: float) -> Tick:
        pose, velocity = self._ego_state.get_transform(), self._ego_state.get_velocity()
        place = pose.location
        box = Box(place.x, place.y, math.radians(pose.rotation.yaw), *self._half)
        expected = self._company.touching(self._snapshot, box, _TOUCH)
        waypoint = lane_at(self._map, place)
        ahead = waypoint.next(_LOOK_AHEAD) if waypoint else []
        return Tick(
            velocity=(velocity.x, velocity.y, velocity.z),
            lane=lane_direction(waypoint, ahead, self._profile.rules.look_ahead),
            height=place.z - waypoint.transform.location.z if waypoint else 0.0,
            impulses=self._collisions.impulses(self._frame, expected, _GRACE_S),
            steer=steer,
            brake=brake,
            on_road=waypoint is not None,
            road_ahead=bool(ahead),
        )

    def _weather(self, ticks: int) -> None:
        fields = scenarios.weather(self._setup.weather, ticks)
        self._world.set_weather(carla.WeatherParameters(**fields))

    def close(self) -> None:
        """See ``channel.Close``. Sensors go before the vehicle that carries them; a tick lets the client see it all."""
        self._company.clear()
        if self._ego is not None:
            for sensor in [*self._cameras, self._collisions]:
                sensor.actor.stop()
                sensor.actor.destroy()
            self._ego.destroy()
        show_scenery(self._world, self._hidden)
        self._world.tick(self._setup.call_s)
        self._company.close()
        self._world.apply_settings(self._found)


def lane_at(world_map: Any, place: Any) -> Any:
    """The waypoint of the driving lane at a location, None beside the road.

    Near the edge of a lane the client's own answer may be the next lane, or none without projection, although the
    location is a decimetre within: its waypoints can be most of a metre too far back or ahead. So the distance from the
    lane's middle is measured across the lane, and the neighbour is asked.
    """
    waypoint = world_map.get_waypoint(place, project_to_road=True, lane_type=carla.LaneType.Driving)
    if waypoint is None:
        return None
    beyond = _beyond(waypoint, place)
    if beyond == 0.0:
        return waypoint
    neighbour = waypoint.get_right_lane() if beyond > 0.0 else waypoint.get_left_lane()
    if neighbour is None or neighbour.lane_type != carla.LaneType.Driving or _beyond(neighbour, place):
        return None
    return neighbour


def _beyond(waypoint: Any, place: Any) -> float:
    """How far right of its lane's right edge a location is, m; negative left of the left edge, 0 between them."""
    middle, right = waypoint.transform.location, waypoint.transform.get_right_vector()
    aside = (place.x - middle.x) * right.x + (place.y - middle.y) * right.y
    half = waypoint.lane_width / 2 + _LANE_ERROR
    return aside - max(-half, min(half, aside))


def lane_direction(waypoint: Any, ahead: list[Any], look_ahead: float) -> tuple[float, float]:
    """Unit vector along the lane: at the waypoint, or between the one ``look_ahead`` m on and its successor."""
    if waypoint is None:
        return (0.0, 0.0)
    if look_ahead > 0.0 and ahead and (beyond := ahead[0].next(0.1)):
        start, end = ahead[0].transform.location, beyond[0].transform.location
        x, y = end.x - start.x, end.y - start.y
    else:
        forward = waypoint.transform.get_forward_vector()
        x, y = forward.x, forward.y
    norm = math.hypot(x, y)
    return (x / norm, y / norm) if norm > 0.0 else (0.0, 0.0)
