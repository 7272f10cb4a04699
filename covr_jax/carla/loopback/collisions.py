"""Collisions of the loopback world: inelastic between vehicles; walkers stop vehicles and are stopped by them."""

from __future__ import annotations

import math
from typing import NamedTuple

from covr_jax.carla.boxes import overlap
from covr_jax.carla.loopback.actors import Actor

_REACH = 10.0  # m, beyond which no two bodies touch


class Bump(NamedTuple):
    """A collision as one of the two feels it; the impulse in N s."""

    me: Actor
    other: Actor
    impulse: list[float]


def collide(a: Actor, b: Actor, dt: float) -> list[Bump]:
    """Keep two bodies apart after a step of ``dt`` s. Returns what either feels; nothing where they just touch."""
    if math.dist(a.transform[0][:2], b.transform[0][:2]) > _REACH or overlap(a.box, b.box).depth <= 0.0:
        return []
    if a.is_walker and b.is_walker:
        return []
    if b.is_walker:
        return _run_into(a, b, dt)
    if a.is_walker:
        return _run_into(b, a, dt)
    return _crash(a, b)


def _crash(a: Actor, b: Actor) -> list[Bump]:
    """Two vehicles, along the direction in which they overlap least; afterwards they just touch."""
    if a.frozen and b.frozen:
        return []
    depth, x, y = overlap(a.box, b.box)
    closing = (a.velocity[0] - b.velocity[0]) * x + (a.velocity[1] - b.velocity[1]) * y
    light_a, light_b = 1.0 / a.mass, 1.0 / b.mass
    impulse = max(closing, 0.0) / (light_a + light_b)
    for body, light, sign in ((a, light_a, -1.0), (b, light_b, 1.0)):
        body.strike(sign * impulse * light * x, sign * impulse * light * y)
        _shift(body, sign * depth * light / (light_a + light_b), x, y)
    return _felt(a, b, impulse, x, y)


def _run_into(vehicle: Actor, walker: Actor, dt: float) -> list[Bump]:
    """A walker before the vehicle stops it at once, however light; one beside it is stopped by it, without a bump."""
    depth, x, y = overlap(vehicle.box, walker.box)
    yaw = math.radians(vehicle.transform[1][1])
    ahead, aside = math.cos(yaw), math.sin(yaw)
    away = [there - here for there, here in zip(walker.transform[0], vehicle.transform[0], strict=True)]
    gap = away[0] * ahead + away[1] * aside - (vehicle.size[0] + walker.size[0]) / 2
    if vehicle.speed <= 0.0 or gap + vehicle.speed * dt < 0.0 or vehicle.frozen:
        _shift(walker, depth, x, y)
        return []
    impulse = vehicle.mass * vehicle.speed
    vehicle.strike(-vehicle.speed * ahead, -vehicle.speed * aside)
    _shift(vehicle, gap, ahead, aside)
    return _felt(vehicle, walker, impulse, ahead, aside)


def _shift(body: Actor, distance: float, x: float, y: float) -> None:
    body.transform[0][0] += distance * x
    body.transform[0][1] += distance * y


def _felt(a: Actor, b: Actor, impulse: float, x: float, y: float) -> list[Bump]:
    """The impulse acts on ``b`` along (x, y) and on ``a`` against it."""
    away, along = [-impulse * x, -impulse * y, 0.0], [impulse * x, impulse * y, 0.0]
    return [Bump(a, b, away), Bump(b, a, along)]
