"""Draws one env: visibility per tile of the image, shading per visible pixel, then the mixture.

Letters: E envs, T tiles, G groups of pixels, P pixels of a tile or of the image, S samples of a pixel, K items, H W
image.
"""

# pyright: reportArgumentType=false, reportReturnType=false, reportAssignmentType=false
# Vectors are tuples built by comprehension, whose length the checker cannot see; blocks are jax or NumPy arrays.
from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from operator import or_

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int32, Shaped, UInt8

from covr_jax.render.distract import DISTRACTORS, Appearance, background
from covr_jax.render.groups import GROUP, by_group, masked_apply, pixel_order, to_image
from covr_jax.render.layers import COUNT_BIT, composite, find_layers
from covr_jax.render.plane import may_be_shadowed, shade_floors, trace_shadows
from covr_jax.render.poses import Poses
from covr_jax.render.raycast import Code, may_intersect
from covr_jax.render.rays import CameraRays, ParallelRays
from covr_jax.render.reflection import mirrored, shade_reflection, trace_reflection
from covr_jax.render.scene import Scene
from covr_jax.render.shade import shade_solids, visible
from covr_jax.render.sky import REACH, look_up, on_cylinder
from covr_jax.render.vector import Vec, vec
from covr_jax.render.view import View, view_of

OBJECT_TYPES = {kind: int(getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")) for kind in ("geom", "site", "tendon")}


def draw(scene: Scene, poses: Poses, appearance: Appearance | None) -> Shaped[Array, "H W *channels"]:
    """Draws one env. Must run under a vmap with axis name ENV_AXIS.

    Args:
      scene: the scene.
      poses: poses of the env.
      appearance: appearance of the episode; None without distractors.

    Returns:
      The output that the scene asks for, see `Renderer`.
    """
    view = view_of(scene, poses, appearance)
    return draw_colour(view) if scene.output == "rgb" else draw_nearest(view)


def draw_nearest(view: View) -> Shaped[Array, "H W *channels"]:
    """Draws depth (f32[H,W]) or segmentation (int32[H,W,2]) of the nearest item at the pixel centres.

    Depth looks through transparent items, segmentation does not.
    """
    scene = view.scene
    _, x, y = pixel_grid(scene)
    depth, code = scene.output == "depth", Code.of(len(scene.items))
    items = scene.opaque if depth else tuple(range(len(scene.items)))
    everything = jnp.ones(len(scene.items), bool)
    seen = jax.lax.map(
        lambda tile: visible(view, view.rays(*tile), items, code, everything), (jnp.asarray(x), jnp.asarray(y))
    )
    seen = to_image(seen, scene.height, scene.width)
    if depth:
        return jnp.where(seen == code.none, np.float32(scene.far), code.distance(seen))
    objects = np.full((code.mask + 1, 2), -1, np.int32)
    for k, item in enumerate(scene.items):
        objects[k] = item.index, OBJECT_TYPES[item.kind]
    return jnp.asarray(objects)[code.index(seen)]


def draw_colour(view: View) -> UInt8[Array, "H W 3"]:
    """Draws an rgb image: finds the items that the samples show, shades them where they are visible, then mixes."""
    scene = view.scene
    number, x, y = pixel_grid(scene)
    sky = sky_behind(view, number, x, y)
    if not scene.items:
        return _to_uint8(scene, sky)
    code = Code.of(len(scene.items))
    candidates = may_be_visible(view, view.rays(0.0, 0.0), x, y).reshape(len(scene.items), len(x), -1).any(-1).T
    tiles = (jnp.asarray(x), jnp.asarray(y), candidates)
    layers, seen = jax.lax.map(jax.jit(lambda tile: find_layers(view, code, *tile)), tiles)
    x, y = x.reshape(-1), y.reshape(-1)
    indices = [layer.reshape(-1) & ((1 << COUNT_BIT) - 1) for layer in layers]
    colours = []
    if scene.floors:
        colours.append(_colour_floors(view, code, x, y, indices[0]))
    if scene.solids:
        colours += _colour_solids(view, code, x, y, indices[len(colours) :])
    tiles = (*tiles[:2], sky, layers, [colour.reshape(sky.shape) for colour in colours], seen)
    return _to_uint8(scene, jax.lax.map(jax.jit(lambda tile: composite(view, code, *tile)), tiles))


def _to_uint8(scene: Scene, packed: Array | np.ndarray) -> UInt8[Array, "H W 3"]:
    """Unpacks int32[T,P] colours in drawing order, 8 bits a channel, red lowest."""
    packed = to_image(packed, scene.height, scene.width)
    return jnp.stack([(packed >> shift) & 255 for shift in (0, 8, 16)], -1).astype(jnp.uint8)


def pixel_grid(
    scene: Scene,
) -> tuple[Int[np.ndarray, "T P"], Float[np.ndarray, "T P"], Float[np.ndarray, "T P"]]:
    """The pixels in drawing order.

    Returns:
      Pixel number (row by row), and x (right) and y (up) of the centre on the image plane at distance 1.
    """
    row, column = pixel_order(scene.height, scene.width)
    lens = scene.lens
    x = (column + 0.5 - 0.5 * scene.width) * lens.width + lens.x
    y = (0.5 * scene.height - 0.5 - row) * lens.height + lens.y
    return row * scene.width + column, x.astype(np.float32), y.astype(np.float32)


def may_be_visible(
    view: View, rays: CameraRays, x: Float[np.ndarray, "*batch"], y: Float[np.ndarray, "*batch"]
) -> Bool[Array, "K G"]:
    """Whether a ray of a group of pixels may meet an item's bounding ball. Conservative: True for some that do not.

    Args:
      view: the env.
      rays: give the origin and the axes of the camera.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.
    """
    lens = view.scene.lens
    x, y = (by_group(centres).reshape(-1, GROUP) for centres in (x, y))
    across, upward = ((c.min(1) - 0.5 * d, c.max(1) + 0.5 * d) for c, d in ((x, lens.width), (y, lens.height)))
    return may_intersect(rays, across, upward, vec(view.position.T[..., None]), view.bounds[:, None])


def sky_behind(
    view: View, number: Int[np.ndarray, "T P"], x: Float[np.ndarray, "T P"], y: Float[np.ndarray, "T P"]
) -> Int32[Array | np.ndarray, "T P"]:
    """The sky behind the pixels, a constant unless the camera turns or there are distractors.

    Args:
      view: the env.
      number: pixel number, row by row.
      x: image plane coordinate of the pixel centres, to the right.
      y: the same, upwards.

    Returns:
      Packed colours, 8 bits a channel, red lowest.
    """
    levels = np.frombuffer(view.scene.sky, np.uint8)
    if view.scene.turning:
        size = math.isqrt(len(levels) // 18)
        levels = look_up(levels.reshape(6, size, size, 3), _sky_directions(view, view.rays(x, y)))
        levels = jnp.round(levels).astype(jnp.int32)
    else:
        levels = levels.reshape(-1, 3).astype(np.int32)[number]
    sky = levels[..., 0] | (levels[..., 1] << 8) | (levels[..., 2] << 16)
    return (
        sky if view.appearance is None else background(view.appearance, DISTRACTORS[view.scene.distractors], sky, x, y)
    )


def _sky_directions(view: View, rays: CameraRays) -> Vec:
    """Where rays point to on the skybox."""
    if isinstance(rays, ParallelRays):
        return on_cylinder(rays.origin, rays.forward, REACH * view.scene.far, jnp)
    return rays.at(1.0)


def _colour_floors(view: View, code: Code, x: np.ndarray, y: np.ndarray, index: Array) -> Int32[Array, " P"]:
    """Packed colours of the visible floors; `index` is int32[P], `code.mask` for none."""
    scene, zeros = view.scene, jnp.zeros(x.shape, jnp.int32)
    reflection, lit = zeros, zeros - 1
    if scene.mirror is not None and len(scene.items) > 1:
        candidates = may_be_visible(view, mirrored(view, view.rays(0.0, 0.0)).rays, x, y).any(0)
        none = jnp.full((len(scene.samples), *x.shape), code.none)
        seen = masked_apply(
            (index == scene.mirror) & _to_pixels(candidates), partial(trace_reflection, view, code), (x, y, index), none
        )
        reflection = masked_apply(
            (seen != code.none).any(0), partial(shade_reflection, view, code), (x, y, seen), zeros
        )
    if scene.casters and any(light.constants.shadow for light in view.lights):
        shadowed = may_be_shadowed(view, by_group(x), by_group(y))
        mask = reduce(or_, ((index == k) & _to_pixels(groups) for k, groups in shadowed.items()))
        lit = masked_apply(mask, partial(trace_shadows, view), (x, y, index), lit)
    return masked_apply(index != code.mask, partial(shade_floors, view), (x, y, index, reflection, lit), zeros)


def _to_pixels(groups: Bool[Array, " G"]) -> Bool[Array, " P"]:
    """Repeats the value of each group for its pixels."""
    return jnp.broadcast_to(groups[:, None], (len(groups), GROUP)).reshape(-1)


def _colour_solids(view: View, code: Code, x: np.ndarray, y: np.ndarray, indices: Sequence[Array]) -> list[Array]:
    """Packed colours int32[P] of each layer of solids; `indices` are int32[P], `code.mask` for none."""
    count = len(indices)
    index = jnp.concatenate(indices)
    data = (jnp.concatenate([x] * count), jnp.concatenate([y] * count), index)
    colours = masked_apply(index != code.mask, partial(shade_solids, view), data, jnp.zeros_like(index))
    return list(colours.reshape(count, -1))
