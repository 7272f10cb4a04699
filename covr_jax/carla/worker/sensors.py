"""Cameras and a collision sensor on the ego vehicle; their data are matched with ticks by frame number."""

from __future__ import annotations

import queue
import time
from typing import Any

import numpy as np
from jaxtyping import UInt8

from covr_jax.carla.scenarios import Rig
from covr_jax.carla.worker.carla_import import carla
from covr_jax.carla.worker.failures import Fault


class Camera:
    """One camera; images of other frames than the wanted one are dropped and counted in ``late``."""

    def __init__(self, world: Any, ego: Any, rig: Rig, yaw: float, size: int):
        blueprint = world.get_blueprint_library().find("sensor.camera.rgb")
        attributes = {"image_size_x": size, "image_size_y": size, "fov": rig.fov, "sensor_tick": 0.0}
        for name, value in [*attributes.items(), *rig.attributes]:
            if blueprint.has_attribute(name):
                blueprint.set_attribute(name, str(value))
        transform = carla.Transform(carla.Location(x=rig.forward, z=rig.up), carla.Rotation(yaw=yaw))
        self.actor = world.spawn_actor(blueprint, transform, attach_to=ego)
        self.late = 0
        self._images: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.actor.listen(self._images.put)

    def image(self, frame: int, timeout_s: float, fresh: bool) -> UInt8[np.ndarray, "H W 3"]:
        """Waits for the RGB image of a frame.

        Args:
          frame: number of the frame.
          timeout_s: time limit.
          fresh: the images of earlier frames were not fetched, so they are not counted as late.

        Raises:
          Fault: the image did not come in time.
        """
        end = time.monotonic() + timeout_s
        while True:
            try:
                image = self._images.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                raise Fault("picture", f"no picture of frame {frame} within {timeout_s:g} s") from None
            if image.frame == frame:
                bgra = np.frombuffer(image.raw_data, np.uint8).reshape(image.height, image.width, 4)
                return bgra[..., 2::-1]
            if image.frame > frame:
                raise Fault("picture", f"picture of frame {image.frame} while waiting for {frame}")
            self.late += not fresh


class CollisionSensor:
    """The ego vehicle's collisions.

    Their events arrive on a thread of the client, sometimes after their tick; those are counted in ``late``.
    """

    def __init__(self, world: Any, ego: Any):
        blueprint = world.get_blueprint_library().find("sensor.other.collision")
        self.actor = world.spawn_actor(blueprint, carla.Transform(), attach_to=ego)
        self.late = 0
        self._events: queue.SimpleQueue[tuple[int, float]] = queue.SimpleQueue()
        self.actor.listen(self._on_event)

    def _on_event(self, event: Any) -> None:
        impulse = event.normal_impulse
        self._events.put((event.frame, float(np.hypot(np.hypot(impulse.x, impulse.y), impulse.z))))

    def clear(self) -> None:
        """Drops all events."""
        while not self._events.empty():
            self._events.get()

    def impulses(self, frame: int, expected: int, grace_s: float) -> tuple[float, ...]:
        """Returns the impulses in N s of the collisions reported since the last call.

        Args:
          frame: number of the current frame.
          expected: number of collisions of this frame to wait for.
          grace_s: longest time to wait.
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
