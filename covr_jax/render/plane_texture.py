"""Where rays meet planes, and the filtered texture there."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covr_jax.render.distract import DISTRACTORS
from covr_jax.render.raycast import Pose
from covr_jax.render.rays import CameraRays
from covr_jax.render.scene import Item
from covr_jax.render.texture import look_up
from covr_jax.render.vector import Block, Floats, Index, Vec, add, dot, pick, pick_vec, scale, sub, vec
from covr_jax.render.view import View, any_pixel

MAX_T = 1e4  # ray parameter at which a plane is cut off near the horizon
WINDOW = float(np.sqrt(3.0))  # texels: width of the box whose variance is that of bilinear filtering in one level


class PlaneHit(NamedTuple):
    """The visible plane of each pixel, and where the ray through the pixel centre meets it."""

    pose: Pose  # scalars if there is one plane, else per pixel
    index: Index  # item index of the plane
    t: Block  # ray parameter
    local: tuple[Block, Block]  # metres along the plane's axes, inside its rectangle
    tilt: Block  # inner product of direction and normal: negative in front, never 0

    def to_world(self, local: tuple[Block, Block]) -> Vec:
        """Converts local coordinates into points."""
        return add(self.pose.position, add(scale(local[0], self.pose.axes[0]), scale(local[1], self.pose.axes[1])))

    @property
    def point(self) -> Vec:
        """Position of the hit."""
        return self.to_world(self.local)


def plane_hit(view: View, rays: CameraRays, planes: tuple[int, ...], index: Index) -> PlaneHit:
    """Intersects rays with the visible plane of each pixel.

    The centre of an edge pixel may miss the plane; the hit is then moved to the border of its rectangle.

    Args:
      view: the env.
      rays: through the pixel centres.
      planes: item indices that may occur in `index`.
      index: item index of the visible plane.
    """
    pose = Pose(
        pick_vec(index, {k: view.pose(k).position for k in planes}),
        tuple(pick_vec(index, {k: view.pose(k).axes[a] for k in planes}) for a in range(3)),
    )
    offset = sub(rays.origin, pose.position)
    tilt = jnp.minimum(rays.along(pose.axes[2]), -1e-9)
    t = jnp.clip(-dot(offset, pose.axes[2]) / tilt, 0.0, MAX_T)
    local = []
    for axis in range(2):
        reach = pick(index, {k: view.scene.items[k].half(axis) for k in planes})
        local.append(jnp.clip(dot(offset, pose.axes[axis]) + t * rays.along(pose.axes[axis]), -reach, reach))
    return PlaneHit(pose, index, t, tuple(local), tilt)


def backface_hit(view: View, rays: CameraRays, index: int) -> tuple[PlaneHit, Bool[Array, " ..."]]:
    """Intersects rays with the back of a plane.

    Args:
      view: the env.
      rays: the rays.
      index: item index of the plane.

    Returns:
      The hits, and whether they lie inside the rectangle.
    """
    pose, item = view.pose(index), view.scene.items[index]
    offset = sub(rays.origin, pose.position)
    tilt = jnp.maximum(rays.along(pose.axes[2]), 1e-9)
    t = jnp.clip(-dot(offset, pose.axes[2]) / tilt, 0.0, MAX_T)
    local = tuple(dot(offset, pose.axes[axis]) + t * rays.along(pose.axes[axis]) for axis in range(2))
    inside = (jnp.abs(local[0]) <= item.half(0)) & (jnp.abs(local[1]) <= item.half(1))
    return PlaneHit(pose, index, t, local, tilt), inside & (tilt > 1e-9) & (t < MAX_T)


def pulse(x: Block, start: Block, stop: Block, width: Block) -> Float[Array, " ..."]:
    """Mean of a square wave of period 1 over a window.

    Args:
      x: centre of the window.
      start: the wave is 1 from here, in 0..1.
      stop: the wave is 0 from here, in 0..1.
      width: of the window.
    """

    def integral(v):
        whole = jnp.floor(v)
        return whole * (stop - start) + jnp.clip(v - whole - start, 0.0, stop - start)

    return (integral(x + 0.5 * width) - integral(x - 0.5 * width)) / width


def checker(u: Block, v: Block, width_u: Block, width_v: Block, edge_u: Block, edge_v: Block) -> Float[Array, " ..."]:
    """Share of the first colour in a window of a 2 x 2 checker. Replaces GL's trilinear filter without any texel.

    Args:
      u: centre of the window along the first axis, in repeats.
      v: the same, along the second axis.
      width_u: width of the window along the first axis, in repeats.
      width_v: the same, along the second axis.
      edge_u: width of the edge mark along the first axis, in repeats.
      edge_v: the same, along the second axis.
    """
    return pulse(u, edge_u, 0.5, width_u) * pulse(v, edge_v, 0.5, width_v) + pulse(u, 0.5, 1 - edge_u, width_u) * pulse(
        v, 0.5, 1 - edge_v, width_v
    )


class _Lookup(NamedTuple):
    """Constants of a texture lookup, per axis where there are two."""

    first: Floats
    second: Floats
    gain: Floats  # repeats per metre
    shift: Floats  # repeats at the plane's centre
    texels: Floats
    edge: Floats  # width of the edge mark, in repeats


def _lookup(item: Item) -> _Lookup:
    """MuJoCo's texture coordinates of a plane. A plane without texture is a checker of two whites."""
    texture = item.texture
    if texture is None:
        return _Lookup((1.0,) * 3, (1.0,) * 3, (1.0, 1.0), (0.0, 0.0), (1.0, 1.0), (0.0, 0.0))
    gain, shift = [], []
    for axis, sign in ((0, 1.0), (1, -1.0)):  # texel rows run against the plane's y axis
        half, repeat = item.size[axis], texture.repeat[axis]
        total = repeat * half if texture.uniform else repeat
        gain.append(sign * (total / (2 * half) if half > 0 else 0.5 * repeat))
        shift.append(total / 2 if half > 0 else -0.5)
    texels = (float(texture.width), float(texture.height))
    return _Lookup(
        texture.first,
        texture.second,
        tuple(gain),
        tuple(shift),
        texels,
        tuple(texture.edge / count for count in texels),
    )


def texture_of(view: View, rays: CameraRays, hit: PlaneHit, planes: tuple[int, ...]) -> Vec:
    """Looks up the texture of planes.

    GL's level of detail, the largest texel step to the next pixel, sets the width of the filter.

    Args:
      view: the env.
      rays: through the pixel centres.
      hit: where they meet the planes.
      planes: item indices that may occur in `hit.index`.

    Returns:
      Rgb in 0..1.
    """
    lookups = {k: _lookup(view.scene.items[k]) for k in planes}
    first, second = (
        pick_vec(hit.index, {k: getattr(lookup, name) for k, lookup in lookups.items()}) for name in ("first", "second")
    )
    if view.appearance is not None:
        strength = DISTRACTORS[view.scene.distractors].floor
        first, second = (
            tuple(c + strength * (new - c) for c, new in zip(colour, vec(target), strict=True))
            for colour, target in zip((first, second), view.appearance.checker, strict=True)
        )
    position, step, texels, edge = [], [], [], []
    for axis in range(2):
        gain, shift, count, mark = (
            pick(hit.index, {k: getattr(lookup, name)[axis] for k, lookup in lookups.items()})
            for name in ("gain", "shift", "texels", "edge")
        )
        # a ray that moves by v at the hit's distance moves the hit by v - d (v.n) / (d.n)
        slide = rays.along(hit.pose.axes[axis]) / hit.tilt
        lens = view.scene.lens
        moves = (
            (dot(v, hit.pose.axes[axis]) - slide * dot(v, hit.pose.axes[2])) * (size / lens.height)
            for v, size in ((rays.right, lens.width), (rays.up, lens.height))
        )
        step.append(rays.width_at(hit.t) * lens.height * jnp.maximum(*map(jnp.abs, moves)) * abs(gain) * count)
        position.append(hit.local[axis] * gain + shift)
        texels.append(count)
        edge.append(mark)
    step = jnp.maximum(jnp.maximum(*step), 1.0)
    share = checker(*position, *(jnp.minimum(WINDOW * step / count, 1.0) for count in texels), *edge)
    colour = tuple(b + (a - b) * share for a, b in zip(first, second, strict=True))
    for k in lookups:
        texture = view.scene.items[k].texture
        if texture and texture.image:
            visible = jnp.asarray(hit.index == k)
            found = jax.lax.cond(
                any_pixel(visible), partial(look_up, texture), lambda *_, colour=colour: colour, *position, step
            )
            colour = tuple(jnp.where(visible, new, old) for new, old in zip(found, colour, strict=True))
    return colour
