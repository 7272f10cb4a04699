"""Cameras and a collision sensor on the ego vehicle, their data matched by frame."""

from __future__ import annotations

import queue
import time
from typing import Any

import numpy as np

from covr_jax.carla.scenarios import Rig
from covr_jax.carla.worker.carla_import import carla
from covr_jax.carla.worker.failures import Fault
from covr_jax.types import Array


class Camera:
    """One camera; pictures of other frames than the one asked for are dropped and counted."""

    def __init__(self, world: Any, ego: Any, rig: Rig, yaw: float, size: int):
        blueprint = world.get_blueprint_library().find("sensor.camera.rgb")
        wanted = {"image_size_x": size, "image_size_y": size, "fov": rig.fov, "sensor_tick": 0.0}
        for name, value in [*wanted.items(), *rig.attributes]:
            if blueprint.has_attribute(name):
                blueprint.set_attribute(name, str(value))
        place = carla.Transform(carla.Location(x=rig.forward, z=rig.up), carla.Rotation(yaw=yaw))
        self.actor = world.spawn_actor(blueprint, place, attach_to=ego)
        self.late = 0
        self._pictures: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.actor.listen(self._pictures.put)

    def picture(self, frame: int, timeout_s: float, fresh: bool) -> Array:
        """u8[H,W,3] of that frame; with ``fresh``, earlier ones are no surprise. Raises Fault where none comes."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                picture = self._pictures.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Fault("picture", f"no picture of frame {frame} within {timeout_s:g} s") from None
            if picture.frame == frame:
                bgra = np.frombuffer(picture.raw_data, np.uint8).reshape(picture.height, picture.width, 4)
                return bgra[..., 2::-1]
            if picture.frame > frame:
                raise Fault("picture", f"picture of frame {picture.frame} while waiting for {frame}")
            self.late += not fresh


class Collisions:
    """The ego vehicle's collisions. Their events arrive on a thread of the client, at times after their tick."""

    def __init__(self, world: Any, ego: Any):
        blueprint = world.get_blueprint_library().find("sensor.other.collision")
        self.actor = world.spawn_actor(blueprint, carla.Transform(), attach_to=ego)
        self.late = 0
        self._events: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self.actor.listen(self._take)

    def _take(self, event: Any) -> None:
        impulse = event.normal_impulse
        self._events.put((event.frame, float(np.hypot(np.hypot(impulse.x, impulse.y), impulse.z))))

    def clear(self) -> None:
        """Forget what has happened."""
        while not self._events.empty():
            self._events.get()

    def impulses(self, frame: int, expected: int, grace_s: float) -> tuple[float, ...]:
        """Norms in N s of what has been reported since the last call.

        Args:
          expected: how many of this frame are worth waiting for, at most ``grace_s``.
        """
        found, fresh, end = [], 0, time.monotonic() + grace_s
        while True:
            waiting = end - time.monotonic() if fresh < expected else 0.0
            try:
                event_frame, impulse = self._events.get(timeout=waiting) if waiting > 0 else self._events.get_nowait()
            except queue.Empty:
                return tuple(found)
            found.append(impulse)
            fresh += event_frame == frame
            self.late += event_frame < frame
