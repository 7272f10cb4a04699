"""Collisions of the loopback world: inelastic between vehicles; walkers stop vehicles and are stopped by them."""

from __future__ import annotations

import math
from typing import NamedTuple

from covr_jax.carla.boxes import overlap
from covr_jax.carla.loopback.actors import Actor

_REACH = 10.0  # m between two centres beyond which no two bodies touch


class Collision(NamedTuple):
    """A collision from one actor's side."""

    actor: Actor
    other: Actor
    impulse: list[float]  # N s, xyz, on ``actor``


def collide(a: Actor, b: Actor, dt: float) -> list[Collision]:
    """Separates two bodies after a step.

    Args:
      a: one body.
      b: the other body.
      dt: length of the step in s.

    Returns:
      The collision from either side; none where the bodies do not overlap or nothing hits.
    """
    if math.dist(a.transform[0][:2], b.transform[0][:2]) > _REACH or overlap(a.box, b.box).depth <= 0.0:
        return []
    if a.is_walker and b.is_walker:
        return []
    if b.is_walker:
        return _hit_walker(a, b, dt)
    if a.is_walker:
        return _hit_walker(b, a, dt)
    return _crash(a, b)


def _crash(a: Actor, b: Actor) -> list[Collision]:
    """Resolves a crash of two vehicles along the direction of least overlap; afterwards they just touch."""
    if a.frozen and b.frozen:
        return []
    depth, x, y = overlap(a.box, b.box)
    closing = (a.velocity[0] - b.velocity[0]) * x + (a.velocity[1] - b.velocity[1]) * y
    inverse_a, inverse_b = 1.0 / a.mass, 1.0 / b.mass
    impulse = max(closing, 0.0) / (inverse_a + inverse_b)
    for body, inverse, sign in ((a, inverse_a, -1.0), (b, inverse_b, 1.0)):
        body.add_velocity(sign * impulse * inverse * x, sign * impulse * inverse * y)
        _shift(body, sign * depth * inverse / (inverse_a + inverse_b), x, y)
    return _both_sides(a, b, impulse, x, y)


def _hit_walker(vehicle: Actor, walker: Actor, dt: float) -> list[Collision]:
    """Resolves the contact of a vehicle and a walker.

    A walker in front stops the vehicle at once, whatever its mass. A walker at the side is stopped, without a
    collision.
    """
    depth, x, y = overlap(vehicle.box, walker.box)
    yaw = math.radians(vehicle.transform[1][1])
    forward_x, forward_y = math.cos(yaw), math.sin(yaw)
    offset = [there - here for there, here in zip(walker.transform[0], vehicle.transform[0], strict=True)]
    gap = offset[0] * forward_x + offset[1] * forward_y - (vehicle.size[0] + walker.size[0]) / 2
    if vehicle.speed <= 0.0 or gap + vehicle.speed * dt < 0.0 or vehicle.frozen:
        _shift(walker, depth, x, y)
        return []
    impulse = vehicle.mass * vehicle.speed
    vehicle.add_velocity(-vehicle.speed * forward_x, -vehicle.speed * forward_y)
    _shift(vehicle, gap, forward_x, forward_y)
    return _both_sides(vehicle, walker, impulse, forward_x, forward_y)


def _shift(body: Actor, distance: float, x: float, y: float) -> None:
    body.transform[0][0] += distance * x
    body.transform[0][1] += distance * y


def _both_sides(a: Actor, b: Actor, impulse: float, x: float, y: float) -> list[Collision]:
    """The impulse acts on ``b`` along the unit vector (x, y) and on ``a`` against it."""
    on_a, on_b = [-impulse * x, -impulse * y, 0.0], [impulse * x, impulse * y, 0.0]
    return [Collision(a, b, on_a), Collision(b, a, on_b)]
