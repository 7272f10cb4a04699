"""Where rays meet items, on plain blocks: a vector is a tuple of three arrays (or scalars), never a trailing axis of 3.

Scalars stay scalars and per-pixel values are contiguous blocks, so one fused, vectorised kernel comes out whatever
compiles it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.render.scene import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE, Floats

Array = Any
Vec = tuple[Any, Any, Any]

TINY = 1e-9  # keeps divisions finite where a ray runs parallel to a surface; the hit is then rejected or far away


def dot(a: Vec, b: Vec) -> Array:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def add(a: Vec, b: Vec) -> Vec:
    """Sum."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def sub(a: Vec, b: Vec) -> Vec:
    """Difference."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scale(s: Array, a: Vec) -> Vec:
    """Multiple."""
    return s * a[0], s * a[1], s * a[2]


def cross(a: Vec, b: Vec) -> Vec:
    """Vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def unit(a: Vec) -> Vec:
    """Scaled to length 1; the zero vector stays zero."""
    return scale(jax.lax.rsqrt(jnp.maximum(dot(a, a), 1e-20)), a)


class PinholeRays(NamedTuple):
    """Rays origin + t (forward + x right + y up). The vectors are scalars, x and y are blocks, so a projection on any
    scalar vector costs two multiply-adds per ray.
    """

    origin: Vec
    forward: Vec
    right: Vec
    up: Vec
    x: Array
    y: Array

    def along(self, v: Vec) -> Array:
        """Inner product of the directions with `v`."""
        return dot(self.forward, v) + self.x * dot(self.right, v) + self.y * dot(self.up, v)

    def squared(self) -> Array:
        """Squared length of the directions."""
        return 1.0 + self.x * self.x + self.y * self.y

    def at(self, t: Array) -> Vec:
        """The points at ray parameter `t`."""
        return tuple(
            self.origin[k] + t * (self.forward[k] + self.x * self.right[k] + self.y * self.up[k]) for k in range(3)
        )


class FreeRays(NamedTuple):
    """Rays origin + t direction, both of any shape; the same three methods."""

    origin: Vec
    direction: Vec

    def along(self, v: Vec) -> Array:
        """Inner product of the directions with `v`."""
        return dot(self.direction, v)

    def squared(self) -> Array:
        """Squared length of the directions."""
        return dot(self.direction, self.direction)

    def at(self, t: Array) -> Vec:
        """The points at ray parameter `t`."""
        return add(self.origin, scale(t, self.direction))


Rays = PinholeRays | FreeRays


class Pose(NamedTuple):
    """Position and the three axes of an item; scalars."""

    position: Vec
    axes: tuple[Vec, Vec, Vec]


class Hit(NamedTuple):
    """Nearest front-facing meeting of rays and one item. Where `ok` is False, `t` and `normal` continue the surface
    smoothly past its silhouette: that is what shades a pixel whose centre the item just misses.
    """

    t: Array  # ray parameter
    ok: Array  # bool: the ray's line meets the surface (t may still be negative)
    normal: Vec  # outward, any length


def _root(a: Array, b: Array, c: Array) -> tuple[Array, Array]:
    """Smaller root of a t^2 + 2 b t + c, with the discriminant clamped at 0, and the discriminant."""
    discriminant = b * b - a * c
    return (-b - jnp.sqrt(jnp.maximum(discriminant, 0.0))) / a, discriminant


def hit_sphere(rays: Rays, centre: Vec, radius: Array) -> Hit:
    """|o + t d - centre| = radius."""
    offset = sub(rays.origin, centre)
    t, discriminant = _root(rays.squared(), rays.along(offset), dot(offset, offset) - radius * radius)
    return Hit(t, discriminant >= 0, sub(rays.at(t), centre))


def hit_capsule(rays: Rays, centre: Vec, axis: Vec, radius: Array, half: Array) -> Hit:
    """Infinite cylinder around `axis` where it meets between the ends, else the sphere at the nearer end."""
    offset = sub(rays.origin, centre)
    squared, slope, drift = rays.squared(), rays.along(axis), rays.along(offset)
    lift, far = dot(axis, offset), dot(offset, offset)
    side, side_disc = _root(
        jnp.maximum(squared - slope * slope, TINY), drift - lift * slope, far - lift * lift - radius * radius
    )
    height = lift + side * slope
    end = jnp.where(height > 0, half, -half)
    cap, cap_disc = _root(squared, drift - end * slope, far - 2 * end * lift + end * end - radius * radius)
    on_side = jnp.abs(height) <= half
    t = jnp.where(on_side, side, cap)
    foot = add(centre, scale(jnp.clip(height, -half, half), axis))
    return Hit(t, jnp.where(on_side, side_disc, cap_disc) >= 0, sub(rays.at(t), foot))


def _local(rays: Rays, pose: Pose) -> tuple[Vec, Vec]:
    """Origin and direction in the item's own frame."""
    offset = sub(rays.origin, pose.position)
    return tuple(dot(offset, axis) for axis in pose.axes), tuple(rays.along(axis) for axis in pose.axes)


def _world(normal: Vec, pose: Pose) -> Vec:
    return add(add(scale(normal[0], pose.axes[0]), scale(normal[1], pose.axes[1])), scale(normal[2], pose.axes[2]))


def _nonzero(x: Array) -> Array:
    return jnp.where(jnp.abs(x) < TINY, TINY, x)


def hit_ellipsoid(rays: Rays, pose: Pose, size: Floats) -> Hit:
    """The unit sphere in a frame divided by the half axes."""
    origin, direction = _local(rays, pose)
    start = -dot(origin, direction) / dot(direction, direction)  # float32 loses thin ones in origins that are far
    origin = tuple(origin[k] + start * direction[k] for k in range(3))
    o, d = (tuple(v[k] / size[k] for k in range(3)) for v in (origin, direction))
    t, discriminant = _root(dot(d, d), dot(o, d), dot(o, o) - 1.0)
    return Hit(start + t, discriminant >= 0, _world(tuple((o[k] + t * d[k]) / size[k] for k in range(3)), pose))


def hit_cylinder(rays: Rays, pose: Pose, radius: Array, half: Array) -> Hit:
    """The curved side between the ends, else the disc that faces the ray."""
    o, d = _local(rays, pose)
    side, discriminant = _root(
        jnp.maximum(d[0] * d[0] + d[1] * d[1], TINY),
        o[0] * d[0] + o[1] * d[1],
        o[0] * o[0] + o[1] * o[1] - radius * radius,
    )
    on_side = (discriminant >= 0) & (jnp.abs(o[2] + side * d[2]) <= half) & (side > 0)
    dz = _nonzero(d[2])
    cap = (-jnp.sign(dz) * half - o[2]) / dz
    x, y = o[0] + cap * d[0], o[1] + cap * d[1]
    on_cap = x * x + y * y <= radius * radius
    zero = jnp.zeros_like(side)
    normal = (
        jnp.where(on_side, o[0] + side * d[0], zero),
        jnp.where(on_side, o[1] + side * d[1], zero),
        jnp.where(on_side, zero, -jnp.sign(dz)),
    )
    return Hit(jnp.where(on_side, side, cap), on_side | on_cap, _world(normal, pose))


def hit_box(rays: Rays, pose: Pose, size: Floats) -> Hit:
    """Slabs: the last entry, if it comes before the first exit."""
    o, d = _local(rays, pose)
    inverse = tuple(1.0 / _nonzero(d[k]) for k in range(3))
    middle = tuple(-o[k] * inverse[k] for k in range(3))
    reach = tuple(jnp.abs(inverse[k]) * size[k] for k in range(3))
    entry = tuple(middle[k] - reach[k] for k in range(3))
    t = jnp.maximum(jnp.maximum(entry[0], entry[1]), entry[2])
    leave = jnp.minimum(jnp.minimum(middle[0] + reach[0], middle[1] + reach[1]), middle[2] + reach[2])
    normal = tuple(jnp.where(t == entry[k], -jnp.sign(d[k]), 0.0) for k in range(3))
    return Hit(t, t <= leave, _world(normal, pose))


def hit_plane(rays: Rays, pose: Pose, size: Floats) -> Hit:
    """The front of a rectangle; a half size of 0 is endless. GL shows the back of a plane only as a faint veil."""
    o, d = _local(rays, pose)
    t = -o[2] / _nonzero(d[2])
    ok = d[2] < 0
    for k in range(2):
        ok = ok & (jnp.abs(o[k] + t * d[k]) <= jnp.where(size[k] > 0, size[k], jnp.inf))
    return Hit(t, ok, pose.axes[2])


def intersect(rays: Rays, kind: int, size: Floats, pose: Pose) -> Hit:
    """Meeting of `rays` with one item of type `kind` (a value of mujoco.mjtGeom), half sizes `size` in metres."""
    if kind == SPHERE:
        return hit_sphere(rays, pose.position, size[0])
    if kind == CAPSULE:
        return hit_capsule(rays, pose.position, pose.axes[2], size[0], size[1])
    if kind == ELLIPSOID:
        return hit_ellipsoid(rays, pose, size)
    if kind == CYLINDER:
        return hit_cylinder(rays, pose, size[0], size[1])
    if kind == BOX:
        return hit_box(rays, pose, size)
    if kind == PLANE:
        return hit_plane(rays, pose, size)
    raise ValueError(f"no intersection with geom type {kind}")


def may_meet(rays: PinholeRays, x: tuple[Array, Array], y: tuple[Array, Array], centre: Vec, radius: Array) -> Array:
    """bool: whether a ball could touch the pyramid of rays between the edges `x` and `y`; conservative.

    Edges and balls broadcast against each other; `rays` tells origin and axes.
    """
    offset = sub(centre, rays.origin)
    depth = dot(offset, rays.forward)
    near = depth > -radius
    for edges, axis in ((x, rays.right), (y, rays.up)):
        across = dot(offset, axis)
        for edge, sign in zip(edges, (-1.0, 1.0), strict=True):
            near = near & (sign * (across - edge * depth) <= radius * jnp.sqrt(1.0 + edge * edge))
    return near


class Code(NamedTuple):
    """How a distance and an item index share one int32: positive floats order like their bits, so the low bits can
    carry the index and one integer minimum finds the nearest item. Costs 2^(bits-23) of relative distance.
    """

    bits: int

    @staticmethod
    def of(count: int) -> Code:
        """Smallest code for `count` items and the mark for none."""
        return Code(max(5, int(count).bit_length()))

    @property
    def mask(self) -> int:
        """Low bits: the item index; all ones is no item."""
        return (1 << self.bits) - 1

    @property
    def none(self) -> np.int32:
        """Further than everything, no item."""
        return np.int32(0x7F000000 | self.mask)

    def pack(self, t: Array, ok: Array, index: int) -> Array:
        """int32: nearest first; `none` where the ray misses or the item lies behind."""
        bits = jax.lax.bitcast_convert_type(t, jnp.int32)
        return jnp.where(ok & (t > 0), (bits & ~self.mask) | index, self.none)

    def index(self, code: Array) -> Array:
        """int32 item index, `mask` for none."""
        return code & self.mask

    def distance(self, code: Array) -> Array:
        """f32 ray parameter, rounded down."""
        return jax.lax.bitcast_convert_type(code & ~self.mask, jnp.float32)


def pick(winner: Array, choices: Mapping[int, Any]) -> Any:
    """The choice of item `winner`, per pixel; a plain scalar when all choices are the same object or number."""
    groups: dict[Any, tuple[Any, list[int]]] = {}
    for index, value in choices.items():
        groups.setdefault(value if isinstance(value, float) else id(value), (value, []))[1].append(index)
    (picked, _), *others = groups.values()
    for value, indices in others:
        mine = winner == indices[0]
        for index in indices[1:]:
            mine = mine | (winner == index)
        picked = jnp.where(mine, value, picked)
    return picked


def pick_vec(winner: Array, choices: Mapping[int, Sequence[Any]]) -> Vec:
    """`pick` for each of the three components."""
    return tuple(pick(winner, {index: value[k] for index, value in choices.items()}) for k in range(3))
