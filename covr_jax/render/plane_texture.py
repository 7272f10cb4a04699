"""Where rays meet planes, and the filtered texture there."""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false, reportCallIssue=false
# pyright: reportAttributeAccessIssue=false, reportOptionalSubscript=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from covr_jax.render.checker import Axis, checker, count_levels, wave_words
from covr_jax.render.distract import DISTRACTORS
from covr_jax.render.raycast import Pose
from covr_jax.render.rays import CameraRays
from covr_jax.render.scene import Item
from covr_jax.render.texture import look_up
from covr_jax.render.vector import Block, Floats, Index, Vec, add, dot, pick, pick_vec, scale, sub, vec
from covr_jax.render.view import View, any_pixel, when

MAX_T = 1e4  # ray parameter at which a plane is cut off near the horizon


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


class _Lookup(NamedTuple):
    """Constants of a texture lookup, per axis where there are two."""

    first: Floats
    second: Floats
    gain: Floats  # repeats per metre
    shift: Floats  # repeats at the plane's centre
    texels: tuple[int, int]
    edge: int  # texels of the edge mark


def _lookup(item: Item) -> _Lookup:
    """MuJoCo's texture coordinates of a plane. A plane without texture is a checker of two whites."""
    texture = item.texture
    if texture is None:
        return _Lookup((1.0,) * 3, (1.0,) * 3, (1.0, 1.0), (0.0, 0.0), (1, 1), 0)
    gain, shift = [], []
    for axis, sign in ((0, 1.0), (1, -1.0)):  # texel rows run against the plane's y axis
        half, repeat = item.size[axis], texture.repeat[axis]
        total = repeat * half if texture.uniform else repeat
        gain.append(sign * (total / (2 * half) if half > 0 else 0.5 * repeat))
        shift.append(total / 2 if half > 0 else -0.5)
    texels = texture.width, texture.height
    return _Lookup(texture.first, texture.second, tuple(gain), tuple(shift), texels, texture.edge)


def _choose(hit: PlaneHit, lookups: dict[int, _Lookup], name: str) -> list[Any]:
    """Both entries of a field of the visible plane's lookup."""
    return [pick(hit.index, {k: float(getattr(one, name)[axis]) for k, one in lookups.items()}) for axis in range(2)]


def _squared_step(view: View, rays: CameraRays, hit: PlaneHit, scale_of: list[Any]) -> Block:
    """Square of how far the texture moves from one pixel to the next, to the right or upwards, whichever is more.

    GL measures it once for every quad of 2 x 2 pixels, by differences.

    Args:
      view: the env.
      rays: through the pixel centres.
      hit: where they meet the planes.
      scale_of: texels per metre along the plane's two axes.
    """
    lens, middle = view.scene.lens, view.quad_middle(rays)
    tilt = middle.along(hit.pose.axes[2])
    tilt = jnp.where(tilt * hit.tilt > 0, tilt, hit.tilt)  # of another sign where the horizon cuts the quad
    width = middle.width_at(hit.t * hit.tilt / tilt)
    # a ray that moves by v at the hit's distance moves the hit by v - d (v.n) / (d.n)
    slides = [middle.along(hit.pose.axes[axis]) / tilt for axis in range(2)]
    squares = []
    for v, size in ((rays.right, lens.width), (rays.up, lens.height)):
        across = dot(v, hit.pose.axes[2])
        moves = ((dot(v, hit.pose.axes[k]) - slides[k] * across) * (size * scale_of[k]) for k in range(2))
        squares.append(sum(move * move for move in moves))
    return jnp.maximum(*squares) * (width * width)


def _checker_of(hit: PlaneHit, lookups: dict[int, _Lookup], position: tuple[Block, Block], squared: Block) -> Block:
    """Share of the first colour in the visible plane's checker."""
    tables, axes, levels = [], {}, {}
    for k, one in lookups.items():
        levels[k] = count_levels(*one.texels)
        axes[k] = []
        for count in one.texels:
            words = wave_words(count, one.edge, levels[k])
            known = [start for start, table in tables if table is words]
            axes[k].append((count, known[0] if known else sum(len(table) for _, table in tables)))
            if not known:
                tables.append((axes[k][-1][1], words))
    chosen = tuple(
        Axis(*(pick(hit.index, {k: int(axes[k][axis][part]) for k in lookups}) for part in range(2)))
        for axis in range(2)
    )
    levels = pick(hit.index, {k: float(level) for k, level in levels.items()})
    return checker(np.concatenate([table for _, table in tables]), chosen, levels, position, squared)


def texture_of(view: View, rays: CameraRays, hit: PlaneHit, planes: tuple[int, ...]) -> Vec:
    """Looks up the texture of planes with GL's trilinear filter.

    Args:
      view: the env.
      rays: through the pixel centres, whole groups of pixels.
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
    gain, shift, texels = (_choose(hit, lookups, name) for name in ("gain", "shift", "texels"))
    position = tuple(hit.local[axis] * gain[axis] + shift[axis] for axis in range(2))
    squared = _squared_step(view, rays, hit, [gain[axis] * texels[axis] for axis in range(2)])
    colour = first
    if view.appearance is not None or any(one.first != one.second for one in lookups.values()):
        share = _checker_of(hit, lookups, position, squared)
        colour = tuple(b + (a - b) * share for a, b in zip(first, second, strict=True))
    for k in lookups:
        texture = view.scene.items[k].texture
        if texture and texture.image:
            colour = tuple(jnp.broadcast_to(c, jnp.shape(squared)) for c in colour)
            visible = jnp.asarray(hit.index == k)
            found = when(any_pixel(visible), partial(look_up, texture, *position, squared), colour)
            colour = tuple(jnp.where(visible, new, old) for new, old in zip(found, colour, strict=True))
    return colour
