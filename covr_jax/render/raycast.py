"""Intersections of rays with items, and the code that packs a distance and an item index into one integer."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from covr_jax.render.rays import CameraRays, ParallelRays, Rays
from covr_jax.render.scene import BOX, CAPSULE, CYLINDER, ELLIPSOID, PLANE, SPHERE
from covr_jax.render.vector import Block, Floats, Index, Vec, add, dot, scale, sub

TINY = 1e-9  # keeps divisions finite where a ray runs parallel to a surface; the hit is then rejected or far away


class Pose(NamedTuple):
    """Position and the three axes of an item, as scalars."""

    position: Vec
    axes: tuple[Vec, Vec, Vec]


class Hit(NamedTuple):
    """Nearest front-facing intersection of rays with one item.

    Where `ok` is False, `t` and `normal` continue the surface smoothly past its silhouette. They shade a pixel whose
    centre the item just misses.
    """

    t: Block  # ray parameter
    ok: Bool[Array, " ..."]  # whether the ray's line intersects the surface; t may be negative
    normal: Vec  # outward, of any length


def _root(a: Block, b: Block, c: Block) -> tuple[Block, Block]:
    """Smaller root of a t^2 + 2 b t + c with the discriminant clamped at 0, and the unclamped discriminant."""
    discriminant = b * b - a * c
    return (-b - jnp.sqrt(jnp.maximum(discriminant, 0.0))) / a, discriminant


def hit_sphere(rays: Rays, centre: Vec, radius: Block) -> Hit:
    """Intersects |o + t d - centre| = radius."""
    offset = sub(rays.origin, centre)
    t, discriminant = _root(rays.squared(), rays.along(offset), dot(offset, offset) - radius * radius)
    return Hit(t, discriminant >= 0, sub(rays.at(t), centre))


def hit_capsule(rays: Rays, centre: Vec, axis: Vec, radius: Block, half: Block) -> Hit:
    """Intersects the cylinder around `axis` between its ends, else the sphere at the nearer end."""
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


def _nonzero(x: Block) -> Block:
    return jnp.where(jnp.abs(x) < TINY, TINY, x)


def hit_ellipsoid(rays: Rays, pose: Pose, size: Floats | Vec) -> Hit:
    """Intersects the unit sphere in a frame divided by the half axes."""
    origin, direction = _local(rays, pose)
    start = -dot(origin, direction) / dot(
        direction, direction
    )  # near the centre: float32 loses thin ellipsoids far away
    origin = tuple(origin[k] + start * direction[k] for k in range(3))
    o, d = (tuple(v[k] / size[k] for k in range(3)) for v in (origin, direction))
    t, discriminant = _root(dot(d, d), dot(o, d), dot(o, o) - 1.0)
    return Hit(start + t, discriminant >= 0, _world(tuple((o[k] + t * d[k]) / size[k] for k in range(3)), pose))


def hit_cylinder(rays: Rays, pose: Pose, radius: Block, half: Block) -> Hit:
    """Intersects the curved side between the ends, else the disc that faces the ray."""
    o, d = _local(rays, pose)
    side, discriminant = _root(
        jnp.maximum(d[0] * d[0] + d[1] * d[1], TINY),
        o[0] * d[0] + o[1] * d[1],
        o[0] * o[0] + o[1] * o[1] - radius * radius,
    )
    on_side = (jnp.abs(o[2] + side * d[2]) <= half) & (side > 0)
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
    return Hit(jnp.where(on_side, side, cap), jnp.where(on_side, discriminant >= 0, on_cap), _world(normal, pose))


def hit_box(rays: Rays, pose: Pose, size: Floats | Vec) -> Hit:
    """Intersects three slabs: the last entry counts if it comes before the first exit."""
    o, d = _local(rays, pose)
    inverse = tuple(1.0 / _nonzero(d[k]) for k in range(3))
    middle = tuple(-o[k] * inverse[k] for k in range(3))
    reach = tuple(jnp.abs(inverse[k]) * size[k] for k in range(3))
    entry = tuple(middle[k] - reach[k] for k in range(3))
    t = jnp.maximum(jnp.maximum(entry[0], entry[1]), entry[2])
    leave = jnp.minimum(jnp.minimum(middle[0] + reach[0], middle[1] + reach[1]), middle[2] + reach[2])
    normal = tuple(jnp.where(t == entry[k], -jnp.sign(d[k]), 0.0) for k in range(3))
    return Hit(t, t <= leave, _world(normal, pose))


def hit_plane(rays: Rays, pose: Pose, size: Floats | Vec) -> Hit:
    """Intersects the front of a rectangle; a half size of 0 is infinite. For the back see `plane.backface_hit`."""
    o, d = _local(rays, pose)
    t = -o[2] / _nonzero(d[2])
    ok = d[2] < 0
    for k in range(2):
        ok = ok & (jnp.abs(o[k] + t * d[k]) <= jnp.where(size[k] > 0, size[k], jnp.inf))
    return Hit(t, ok, pose.axes[2])


def intersect(rays: Rays, kind: int, size: Floats | Vec, pose: Pose) -> Hit:
    """Intersects rays with one item.

    Args:
      rays: the rays.
      kind: type of the item, a value of mujoco.mjtGeom.
      size: MuJoCo's half sizes in metres.
      pose: where the item is.

    Raises:
      ValueError: the type cannot be drawn.
    """
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


def may_intersect(
    rays: CameraRays, x: tuple[Block, Block], y: tuple[Block, Block], centre: Vec, radius: Block
) -> Bool[Array | np.ndarray, " ..."]:
    """Whether balls may touch a pyramid or a prism of rays. Conservative: True for some that do not.

    Args:
      rays: give the eye and the axes; their `x` and `y` are not read.
      x: lower and upper edge of the pyramid or prism on the image plane.
      y: the same, upwards.
      centre: centres of the balls; they and the radii broadcast against the edges.
      radius: radii of the balls in metres.
    """
    offset = sub(centre, rays.eye)
    depth = dot(offset, rays.forward)
    near = depth > -radius
    parallel = isinstance(rays, ParallelRays)
    for edges, axis in ((x, rays.right), (y, rays.up)):
        across = dot(offset, axis)
        for edge, sign in zip(edges, (-1.0, 1.0), strict=True):
            if parallel:
                near = near & (sign * (across - edge) <= radius)
            else:
                near = near & (sign * (across - edge * depth) <= radius * jnp.sqrt(1.0 + edge * edge))
    return near


class Code(NamedTuple):
    """Packs a ray parameter and an item index into one int32.

    Positive floats order like their bits, so the low bits can carry the index, and one integer minimum finds the
    nearest item. Costs 2^(bits-23) of relative distance. They carry its complement: of items at the same distance the
    last one shows, as MuJoCo draws them in this order and OpenGL keeps the last.
    """

    bits: int

    @staticmethod
    def of(count: int) -> Code:
        """The smallest code for `count` items and the mark for none."""
        return Code(max(5, int(count).bit_length()))

    @property
    def mask(self) -> int:
        """The low bits, which hold the complement of the item index; also the index of no item."""
        return (1 << self.bits) - 1

    @property
    def none(self) -> np.int32:
        """The code of no item, greater than all others."""
        return np.int32(0x7F000000)

    def pack(self, t: Float[Array, " ..."], ok: Bool[Array, " ..."], index: Index) -> Int[Array, " ..."]:
        """Packs hits; the nearest has the smallest code.

        Args:
          t: ray parameters.
          ok: whether there is a hit.
          index: item index.

        Returns:
          The codes; `none` where there is no hit or it lies behind the origin.
        """
        bits = jax.lax.bitcast_convert_type(t, jnp.int32)
        return jnp.where(ok & (t > 0), (bits & ~self.mask) | (self.mask - index), self.none)

    def index(self, code: Index) -> Index:
        """Item index of a code, `mask` for none."""
        return ~code & self.mask

    def distance(self, code: Int[Array, " ..."]) -> Float[Array, " ..."]:
        """Ray parameter of a code, rounded down."""
        return jax.lax.bitcast_convert_type(code & ~self.mask, jnp.float32)
