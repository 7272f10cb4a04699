"""Actors of the loopback world and their motion. Lengths in m, speeds in m/s, angles in degrees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from covr_jax.carla.boxes import Box
from covr_jax.carla.loopback.wire import BOOL, COLOR, FLOAT, INT, STRING, Transform, blueprint

WHEEL_BASE, MAX_STEER = 2.875, 35.0
THROTTLE, BRAKE, DRAG, GRIP = 5.0, 8.0, 0.004, 8.0  # m/s^2; drag per (m/s)^2

# length, width, height and mass (kg) by blueprint
_VEHICLES = {
    "vehicle.tesla.model3": (4.8, 1.9, 1.5, 1800.0),
    "vehicle.audi.a2": (3.7, 1.8, 1.55, 1200.0),
    "vehicle.audi.tt": (4.2, 2.0, 1.4, 1400.0),
    "vehicle.nissan.micra": (3.6, 1.8, 1.5, 1100.0),
    "vehicle.mercedes.sprinter": (5.9, 2.0, 2.6, 2500.0),
    "vehicle.carlamotors.carlacola": (5.2, 2.6, 2.5, 5500.0),
}
_WALKER = (0.4, 0.4, 1.8, 75.0)
_CAMERA = [
    ("image_size_x", INT, "84"),
    ("image_size_y", INT, "84"),
    ("fov", FLOAT, "90.0"),
    ("sensor_tick", FLOAT, "0.0"),
    ("enable_postprocess_effects", BOOL, "true"),
    ("motion_blur_intensity", FLOAT, "0.45"),  # stored, without effect on the images
]

BLUEPRINTS = [
    *(
        blueprint(
            number,
            name,
            [
                ("number_of_wheels", INT, "4"),
                ("role_name", STRING, "autopilot"),
                ("color", COLOR, "60,60,160"),
                ("base_type", STRING, "car"),
            ],
        )
        for number, name in enumerate(_VEHICLES, 1)
    ),
    blueprint(20, "walker.pedestrian.0001", [("is_invincible", BOOL, "true"), ("role_name", STRING, "")]),
    blueprint(30, "sensor.camera.rgb", _CAMERA),
    blueprint(31, "sensor.other.collision", [("role_name", STRING, "")]),
    blueprint(32, "sensor.other.lane_invasion", [("role_name", STRING, "")]),
]


@dataclass
class Actor:
    """One actor; ``description`` is the client's record ``[blueprint number, name, attributes]``."""

    number: int
    description: list[Any]
    transform: Transform
    parent: int = 0
    speed: float = 0.0  # along the heading, of a vehicle
    velocity: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    control: list[Any] = field(default_factory=lambda: [0.0, 0.0, 0.0, False, False, False, 0])
    walk: list[Any] = field(default_factory=lambda: [[1.0, 0.0, 0.0], 0.0, False])
    physics: list[Any] | None = None  # the client's record; None: the default of all vehicles
    frozen: bool = False  # physics is off: the actor neither moves nor is moved

    @property
    def name(self) -> str:
        """Name of the blueprint."""
        return self.description[1]

    @property
    def is_vehicle(self) -> bool:
        """Whether the actor is a vehicle."""
        return self.name.startswith("vehicle.")

    @property
    def is_walker(self) -> bool:
        """Whether the actor is a pedestrian."""
        return self.name.startswith("walker.")

    @property
    def is_body(self) -> bool:
        """Whether the actor takes part in collisions."""
        return self.is_vehicle or self.is_walker

    @property
    def size(self) -> tuple[float, float, float, float]:
        """Length, width, height (m) and mass (kg)."""
        return _VEHICLES.get(self.name, _WALKER)

    @property
    def mass(self) -> float:
        """Mass in kg; infinite where physics is off."""
        return math.inf if self.frozen else self.size[3]

    @property
    def box(self) -> Box:
        """The actor's outline seen from above."""
        length, width, _, _ = self.size
        (x, y, _), (_, yaw, _) = self.transform
        return Box(x, y, math.radians(yaw), length / 2, width / 2)

    def attribute(self, name: str, default: str) -> str:
        """Returns an attribute of the actor's blueprint, or ``default``."""
        return next((text for key, _, text in self.description[2] if key == name), default)

    def move(self, dt: float) -> None:
        """Moves the actor by one step of ``dt`` s; a body above the ground is put on it."""
        if self.frozen or not self.is_body:
            return
        self.transform[0][2] = 0.0 if self.is_vehicle else self.size[2] / 2
        if self.is_vehicle:
            self._drive(dt)
        else:
            direction, speed, _ = self.walk
            self.velocity = [direction[0] * speed, direction[1] * speed, 0.0]
        self.transform[0][0] += self.velocity[0] * dt
        self.transform[0][1] += self.velocity[1] * dt

    def _drive(self, dt: float) -> None:
        """Kinematic bicycle model, its lateral acceleration limited by GRIP."""
        throttle, steer, brake, hand_brake, reverse = self.control[:5]
        throttle, steer, brake = _clip(throttle, 0.0), _clip(steer, -1.0), _clip(brake, 0.0)
        speed = self.speed + THROTTLE * throttle * (-1.0 if reverse else 1.0) * dt
        slowing = (BRAKE * (1.0 if hand_brake else brake) + DRAG * speed * speed) * dt
        self.speed = math.copysign(max(0.0, abs(speed) - slowing), speed)
        rate = self.speed / WHEEL_BASE * math.tan(math.radians(MAX_STEER) * steer)
        limit = GRIP / max(abs(self.speed), 0.1)
        heading = math.radians(self.transform[1][1]) + max(-limit, min(limit, rate)) * dt
        self.transform[1][1] = math.degrees(heading)
        self.velocity = [self.speed * math.cos(heading), self.speed * math.sin(heading), 0.0]

    def add_velocity(self, x: float, y: float) -> None:
        """Changes a vehicle's velocity by (x, y) in m/s after a collision; its heading stays."""
        yaw = math.radians(self.transform[1][1])
        self.speed += x * math.cos(yaw) + y * math.sin(yaw)
        self.velocity = [self.speed * math.cos(yaw), self.speed * math.sin(yaw), 0.0]


def _clip(number: float, low: float) -> float:
    """Clips a number to [low, 1]; NaN becomes 0."""
    return max(low, min(1.0, number)) if number == number else 0.0
