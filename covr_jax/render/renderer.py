"""The renderer: poses in, picture out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial, reduce
from operator import or_
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from covr_jax.render.distract import DISTRACTORS, Appearance, background, draw_look
from covr_jax.render.groups import GROUP, by_group, masked_apply, pixel_order, to_image
from covr_jax.render.plane import may_be_dark, see_shadows, shade_floors
from covr_jax.render.poses import Poses, poses_of
from covr_jax.render.raycast import Array, Code, PinholeRays, may_meet
from covr_jax.render.reflection import mirrored, see_reflection, shade_reflection
from covr_jax.render.scene import Scene, compile_scene
from covr_jax.render.shade import shade_solids, unpack_colour, visible
from covr_jax.render.sky import look_up
from covr_jax.render.transparency import blend
from covr_jax.render.view import WORLDS, View, anywhere, one_by_one, vec, view_of

SHARE = 16  # bit of a layer from which the number of samples is kept
BLOCK = 64  # worlds a CPU draws at once: fewer, larger steps, which two cores can share

OBJECTS = {kind: int(getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")) for kind in ("geom", "site", "tendon")}


def draw(scene: Scene, poses: Poses, look: Appearance | None) -> Array:
    """The scene's output of one world: uint8[H,W,3] picture, f32[H,W] depth or int32[H,W,2] segmentation."""
    view = view_of(scene, poses, look)
    return draw_colour(view) if scene.output == "rgb" else draw_nearest(view)


def draw_nearest(view: View) -> Array:
    """What the pixel centres show first. Transparent items hide nothing from depth, but are objects like any other."""
    scene = view.scene
    _, x, y = _pixels(scene)
    depth, code = scene.output == "depth", Code.of(len(scene.items))
    items = scene.opaque if depth else tuple(range(len(scene.items)))
    everything = jnp.ones(len(scene.items), bool)
    seen = jax.lax.map(
        lambda tile: visible(view, view.rays(*tile), items, code, everything), (jnp.asarray(x), jnp.asarray(y))
    )
    seen = to_image(seen, scene.height, scene.width)
    if depth:
        return jnp.where(seen == code.none, np.float32(scene.far), code.distance(seen))
    names = np.full((code.mask + 1, 2), -1, np.int32)
    for k, item in enumerate(scene.items):
        names[k] = item.index, OBJECTS[item.kind]
    return jnp.asarray(names)[code.index(seen)]


def draw_colour(view: View) -> Array:
    """uint8[H,W,3] picture: which items the samples show, then the light on those, where they are, then the mixture."""
    scene = view.scene
    number, x, y = _pixels(scene)
    sky = _sky(view, number, x, y)
    if not scene.items:
        return _as_bytes(scene, sky)
    code = Code.of(len(scene.items))
    near = _near(view, view.rays(0.0, 0.0), x, y).reshape(len(scene.items), len(x), -1).any(-1).T
    tiles = (jnp.asarray(x), jnp.asarray(y), near)
    layers, seen = jax.lax.map(lambda tile: survey(view, code, *tile), tiles)
    x, y = x.reshape(-1), y.reshape(-1)
    winners = [layer.reshape(-1) & ((1 << SHARE) - 1) for layer in layers]
    colours = []
    if scene.floors:
        colours.append(_colour_floors(view, code, x, y, winners[0]))
    if scene.solids:
        colours += _colour_solids(view, code, x, y, winners[len(colours) :])
    tiles = (*tiles[:2], sky, layers, [colour.reshape(sky.shape) for colour in colours], seen)
    return _as_bytes(scene, jax.lax.map(lambda tile: mix(view, code, *tile), tiles))


def _as_bytes(scene: Scene, packed: Array) -> Array:
    """uint8[H,W,3] from int32 in drawing order, 8 bits a channel, red lowest."""
    packed = to_image(packed, scene.height, scene.width)
    return jnp.stack([(packed >> shift) & 255 for shift in (0, 8, 16)], -1).astype(jnp.uint8)


def _pixels(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture in drawing order: pixel numbers (int[T,P]) and centres x, y (f32[T,P]) on the image plane."""
    row, column = pixel_order(scene.height, scene.width)
    x = (column + 0.5 - 0.5 * scene.width) * scene.pixel
    y = (0.5 * scene.height - 0.5 - row) * scene.pixel
    return row * scene.width + column, x.astype(np.float32), y.astype(np.float32)


def _near(view: View, rays: PinholeRays, x: np.ndarray, y: np.ndarray) -> Array:
    """bool[K,G]: whether a ray of a group of pixels could meet an item's ball; `x`, `y` are the centres."""
    half = 0.5 * view.scene.pixel
    x, y = (by_group(centres).reshape(-1, GROUP) for centres in (x, y))
    across, upward = ((c.min(1) - half, c.max(1) + half) for c in (x, y))
    return may_meet(rays, across, upward, vec(view.position.T[..., None]), view.bounds[:, None])


def _sky(view: View, number: np.ndarray, x: np.ndarray, y: np.ndarray) -> Array:
    """int32[T,P] packed sky behind the pixels: a constant unless the camera turns."""
    levels = np.frombuffer(view.scene.sky, np.uint8)
    if view.scene.turning:
        size = math.isqrt(len(levels) // 18)
        levels = look_up(levels.reshape(6, size, size, 3), view.rays(x, y).at(1.0))
        levels = jnp.round(levels).astype(jnp.int32)
    else:
        levels = levels.reshape(-1, 3).astype(np.int32)[number]
    sky = levels[..., 0] | (levels[..., 1] << 8) | (levels[..., 2] << 16)
    return sky if view.look is None else background(view.look, DISTRACTORS[view.scene.distractors], sky, x, y)


def survey(view: View, code: Code, x: Array, y: Array, near: Array) -> tuple[list[Array], Array | None]:
    """What the samples of pixels with centres `x, y` (f32[P]) show: int32[P] per layer (see `_joined`), the floors'
    first if there are floors, then the solids'; and, where the scene has transparent items, int32[S,P] itself.

    `near` bool[K]: items that any of the pixels could show.
    """
    scene, rays = view.scene, view.rays(x, y)
    none = jnp.full((len(scene.samples), *x.shape), code.none)
    seen = jax.lax.cond(
        anywhere(near), lambda: visible(view, view.spread(rays), scene.opaque, code, near), lambda: none
    )
    layers = _winners(seen, scene.floors, code, 1) if scene.floors else []
    if scene.solids:
        layers += _winners(seen, scene.solids, code, min(len(scene.solids), _solids_per_pixel(scene)))
    return layers, seen if scene.glass or scene.backs else None


def _colour_floors(view: View, code: Code, x: Array, y: Array, winner: Array) -> Array:
    """int32[P] packed colours of the floors."""
    scene, blank = view.scene, jnp.zeros(x.shape, jnp.int32)
    reflection, bright = blank, blank - 1
    if scene.mirror is not None and len(scene.items) > 1:
        near = _near(view, mirrored(view, view.rays(0.0, 0.0)).rays, x, y).any(0)
        none = jnp.full((len(scene.samples), *x.shape), code.none)
        image = masked_apply(
            (winner == scene.mirror) & _spread(near), partial(see_reflection, view, code), (x, y, winner), none
        )
        reflection = masked_apply(
            (image != code.none).any(0), partial(shade_reflection, view, code), (x, y, image), blank
        )
    if scene.casters and any(light.constants.shadow for light in view.lights):
        dark = may_be_dark(view, by_group(x), by_group(y))
        shadowed = reduce(or_, ((winner == k) & _spread(groups) for k, groups in dark.items()))
        bright = masked_apply(shadowed, partial(see_shadows, view), (x, y, winner), bright)
    return masked_apply(winner != code.mask, partial(shade_floors, view), (x, y, winner, reflection, bright), blank)


def _spread(groups: Array) -> Array:
    """bool[P] from bool[G]."""
    return jnp.broadcast_to(groups[:, None], (len(groups), GROUP)).reshape(-1)


def _colour_solids(view: View, code: Code, x: Array, y: Array, winners: Sequence[Array]) -> list[Array]:
    """int32[P] packed colours of each of the pixels' solids."""
    count = len(winners)
    winner = jnp.concatenate(winners)
    data = (jnp.concatenate([x] * count), jnp.concatenate([y] * count), winner)
    colours = masked_apply(winner != code.mask, partial(shade_solids, view), data, jnp.zeros_like(winner))
    return list(colours.reshape(count, -1))


def _solids_per_pixel(scene: Scene) -> int:
    """Where silhouettes overlap, each item has its own colour, as in OpenGL's samples; two are enough for four."""
    return max(1, len(scene.samples) // 2)


def _winners(seen: Array, items: tuple[int, ...], code: Code, count: int) -> list[Array]:
    """The `count` nearest of `items` in each pixel, nearest first, each int32[P]: the index (`code.mask` for none) and,
    from bit SHARE on, how many samples show it. The last one stands for all samples that show further ones.
    """
    mine = jnp.zeros(seen.shape, bool)
    for index in items:
        mine = mine | (code.index(seen) == index)
    left, found = jnp.where(mine, seen, code.none), []
    for place in range(count):
        winner = code.index(left.min(0))
        shown = left != code.none
        if place < count - 1:
            shown = shown & (code.index(left) == winner)
        found.append(winner | (shown.sum(0, dtype=jnp.int32) << SHARE))
        left = jnp.where(shown, code.none, left)
    return found


def mix(
    view: View,
    code: Code,
    x: Array,
    y: Array,
    sky: Array,
    layers: list[Array],
    colours: list[Array],
    seen: Array | None,
) -> Array:
    """int32[P]: the packed `colours` of the layers over the packed `sky`, by their shares of the samples, with what is
    transparent. For the rest see `survey`.
    """
    shares = [(layer >> SHARE).astype(jnp.float32) / len(view.scene.samples) for layer in layers]
    background = (1.0 - sum(shares)) / 255.0
    mixed = [((sky >> shift) & 255).astype(jnp.float32) * background for shift in (0, 8, 16)]
    for share, colour in zip(shares, colours, strict=True):
        mixed = [c + share * s for c, s in zip(mixed, unpack_colour(colour), strict=True)]
    if seen is not None:
        mixed = blend(view, view.rays(x, y), tuple(mixed), seen, code)
    red, green, blue = (jnp.round(255.0 * jnp.clip(c, 0.0, 1.0)).astype(jnp.int32) for c in mixed)
    return red | (green << 8) | (blue << 16)


@partial(jax.jit, static_argnums=0)
def _draw_batch(scene: Scene, poses: Poses, look: Appearance | None) -> Array:
    """Pictures of poses (and looks) with leading axis E. A CPU draws a few worlds at a time, as its cache holds."""
    worlds = (poses, look)
    count = len(poses.camera_position)
    together = jax.vmap(partial(draw, scene), axis_name=WORLDS)
    if not one_by_one():
        return together(*worlds)
    blocks = -(-count // BLOCK)
    size = -(-count // blocks)
    rows = np.minimum(np.arange(blocks * size), count - 1).reshape(blocks, size)
    pictures = jax.lax.map(lambda row: together(*jax.tree.map(lambda leaf: leaf[row], worlds)), jnp.asarray(rows))
    return pictures.reshape(-1, *pictures.shape[2:])[:count]


class Renderer:
    """Draws a MuJoCo scene in pure jax.numpy, after MuJoCo's classic OpenGL picture.

    Args:
      mj_model: the model; read once, not kept.
      height, width: picture size in pixels.
      camera: row or name of a fixed or tracking perspective camera of the model.
      samples: visibility samples per pixel, 1, 2 or 4. Each pixel is shaded once at its centre in any case.
      shadows: whether lights with `castshadow` cast shadows.
      reflections: whether the first reflective plane mirrors the scene.
      output: what is drawn, as `mujoco.Renderer` has it: `rgb` uint8[H,W,3]; `depth` f32[H,W], metres along the
        camera's axis, the model's far distance where nothing is; `segmentation` int32[H,W,2], row in the model and
        mujoco.mjtObj of what is seen, -1 where nothing is. The last two look through the pixel centres only.
      distractors: a name of `distract.DISTRACTORS`; calls then take a `look`, which the method of that name draws.

    Raises:
      ValueError: for a camera that does not exist, for meshes, height fields, skins and flexes, and for bad sizes.
    """

    def __init__(
        self,
        mj_model: mujoco.MjModel,
        height: int = 84,
        width: int = 84,
        camera: int | str = 0,
        *,
        samples: int = 4,
        shadows: bool = True,
        reflections: bool = True,
        output: str = "rgb",
        distractors: str = "none",
    ) -> None:
        if distractors not in DISTRACTORS:
            raise ValueError(f"distractors must be one of {', '.join(DISTRACTORS)}, got {distractors!r}")
        strength = DISTRACTORS[distractors]
        self.scene = compile_scene(
            mj_model,
            height,
            width,
            camera,
            samples,
            shadows,
            reflections,
            output,
            distractors=distractors,
            hide_floor=strength.hide_floor,
            turning=strength.angle > 0,
        )
        self._extent = float(mj_model.stat.extent)

    def look(self, key: Array) -> Appearance | None:
        """What an episode looks like; None without distractors. The key is consumed."""
        return None if self.scene.distractors == "none" else draw_look(key, self.scene, self._extent)

    def __call__(self, data: Any, look: Appearance | None = None) -> Array:
        """Picture (see `output`) of one world: mjx.Data, or mujoco.MjData after mj_forward. Pure: jit, vmap, export."""
        world = jax.tree.map(lambda leaf: leaf[None], (poses_of(self.scene, data), look))
        return _draw_batch(self.scene, *world)[0]

    def batch(self, data: Any, look: Appearance | None = None) -> Array:
        """Pictures of mjx.Data, and looks, with leading axis E."""
        return _draw_batch(self.scene, jax.vmap(partial(poses_of, self.scene))(data), look)
