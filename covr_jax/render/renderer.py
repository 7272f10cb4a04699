"""The renderer: poses in, picture out."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from covr_jax.render.distract import DISTRACTORS, Look, background, draw_look
from covr_jax.render.glass import blend
from covr_jax.render.plane import mirrored, see_reflection, shade_floors, shade_reflection
from covr_jax.render.poses import Poses, poses_of
from covr_jax.render.raycast import Array, Code, Vec, may_meet
from covr_jax.render.scene import Scene, compile_scene
from covr_jax.render.shade import shade_solids, unpack_colour, visible
from covr_jax.render.sky import look_up
from covr_jax.render.view import WORLDS, View, anywhere, one_by_one, vec, view_of

BLOCK = 16  # worlds a CPU draws at once: fewer, larger steps, which two cores can share
TILE = 1024  # pixels of a world it draws at once
LANES = 16  # tiles are whole vectors


OBJECTS = {kind: int(getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")) for kind in ("geom", "site", "tendon")}


def draw(scene: Scene, poses: Poses, look: Look | None) -> Array:
    """The scene's output of one world: uint8[H,W,3] picture, f32[H,W] depth or int32[H,W,2] segmentation."""
    view = view_of(scene, poses, look)
    return draw_colour(view) if scene.output == "rgb" else draw_nearest(view)


def draw_nearest(view: View) -> Array:
    """What the pixel centres show first. Transparent items hide nothing from depth, but are objects like any other."""
    scene = view.scene
    _, x, y = _tiles(scene)
    depth, code = scene.output == "depth", Code.of(len(scene.items))
    items = scene.opaque if depth else tuple(range(len(scene.items)))
    everything = jnp.ones(len(scene.items), bool)
    seen = jax.lax.map(lambda tile: visible(view, view.rays(*tile), items, code, everything),
                       (jnp.asarray(x), jnp.asarray(y)))
    seen = seen.reshape(-1)[:scene.height * scene.width].reshape(scene.height, scene.width)
    if depth:
        return jnp.where(seen == code.none, np.float32(scene.far), code.distance(seen))
    names = np.full((code.mask + 1, 2), -1, np.int32)
    for k, item in enumerate(scene.items):
        names[k] = item.index, OBJECTS[item.kind]
    return jnp.asarray(names)[code.index(seen)]


def draw_colour(view: View) -> Array:
    """uint8[H,W,3] picture."""
    scene = view.scene
    number, x, y = _tiles(scene)
    sky = _sky(view, number, x, y)
    rays = view.rays(0.0, 0.0)
    near = [may_meet(rays, _edges(x, scene.pixel), _edges(y, scene.pixel), vec(view.position.T), view.bounds)
            for rays in ([rays] if scene.mirror is None else [rays, mirrored(view, rays).rays])]
    tiles = (jnp.asarray(x), jnp.asarray(y), jnp.asarray(sky), near)
    packed = jax.lax.map(lambda tile: draw_tile(view, *tile), tiles)
    packed = packed.reshape(-1)[:scene.height * scene.width]
    colour = jnp.stack([(packed >> shift) & 255 for shift in (0, 8, 16)], -1)
    return colour.astype(jnp.uint8).reshape(scene.height, scene.width, 3)


def _tiles(scene: Scene) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The picture cut into T tiles of P pixels: numbers (int[T,P]) and centres x, y (f32[T,P]) on the image plane.

    A CPU skips the stages that a tile does not need; an accelerator draws all of the picture as one tile. The last
    pixel fills up the last tile.
    """
    pixels = scene.height * scene.width
    tiles = -(-pixels // TILE) if one_by_one() else 1
    size = -(-pixels // (tiles * LANES)) * LANES
    number = np.minimum(np.arange(tiles * size), pixels - 1).reshape(tiles, size)
    x = (number % scene.width + 0.5 - 0.5 * scene.width) * scene.pixel
    y = (0.5 * scene.height - 0.5 - number // scene.width) * scene.pixel
    return number, x.astype(np.float32), y.astype(np.float32)


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


def _edges(block: np.ndarray, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Smallest and largest value of each tile, f32[T,1]."""
    return block.min(1, keepdims=True) - margin, block.max(1, keepdims=True) + margin


def draw_tile(view: View, x: Array, y: Array, sky: Array, near: list[Array]) -> Array:
    """int32[P] colours (8 bits each, red lowest) of pixels with centres `x, y` (f32[P]) over `sky` (int32[P]).

    Each stage is a conditional. What no pixel shows is not shaded, and the compiler does not merge work across a
    conditional, so it does not repeat it either.
    """
    scene = view.scene
    if not scene.items:
        return sky
    code = Code.of(len(scene.items))
    rays = view.rays(x, y)
    none, blank = jnp.full((len(scene.samples), *x.shape), code.none), jnp.zeros(x.shape, jnp.int32)
    seen = _where_any(near[0], lambda: visible(view, view.spread(rays), scene.opaque, code, near[0]), none)
    layers = []  # (coverage, colour)
    if scene.floors:
        ((share, winner),) = _winners(seen, scene.floors, code, 1)
        reflection = blank
        if scene.mirror is not None and len(scene.items) > 1:
            image = _where_any(winner == scene.mirror, lambda: see_reflection(view, rays, winner, code, near[1]), none)
            reflection = _where_any(image != none, lambda: shade_reflection(view, rays, image, code), blank)
        shade = partial(shade_floors, view, rays, winner, reflection)
        layers.append((share, _where_any(winner != code.mask, shade, blank)))
    for share, winner in _winners(seen, scene.solids, code, min(len(scene.solids), _solids_per_pixel(scene))):
        layers.append((share, _where_any(winner != code.mask, partial(shade_solids, view, rays, winner), blank)))
    colour = _mix(sky, layers)
    if scene.glass or scene.backs:
        colour = blend(view, rays, colour, seen, code)
    red, green, blue = (jnp.round(255.0 * jnp.clip(c, 0.0, 1.0)).astype(jnp.int32) for c in colour)
    return red | (green << 8) | (blue << 16)


def _solids_per_pixel(scene: Scene) -> int:
    """Where silhouettes overlap, each item has its own colour, as in OpenGL's samples; two are enough for four."""
    return max(1, len(scene.samples) // 2)


def _winners(seen: Array, items: tuple[int, ...], code: Code, count: int) -> list[tuple[Array, Array]]:
    """The `count` nearest of `items` in each pixel, nearest first: f32[P] share of the samples, int32[P] index.

    The last one stands for all samples that show further ones.
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
        found.append((shown.astype(jnp.float32).mean(0), winner))
        left = jnp.where(shown, code.none, left)
    return found


def _where_any(mask: Array, stage: Callable[[], Array], otherwise: Array) -> Array:
    """Runs `stage` if any pixel needs it."""
    return jax.lax.cond(anywhere(mask), stage, lambda: otherwise)


def _mix(sky: Array, layers: list[tuple[Array, Array]]) -> Vec:
    """rgb in 0..1: the packed colours of `layers` over the packed `sky`, by their shares of the samples."""
    background = (1.0 - sum(share for share, _ in layers)) / 255.0
    mixed = [((sky >> shift) & 255).astype(jnp.float32) * background for shift in (0, 8, 16)]
    for share, colour in layers:
        mixed = [c + share * s for c, s in zip(mixed, unpack_colour(colour), strict=True)]
    return tuple(mixed)  # pyright: ignore[reportReturnType]


@partial(jax.jit, static_argnums=0)
def _draw_batch(scene: Scene, poses: Poses, look: Look | None) -> Array:
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

    def __init__(self, mj_model: mujoco.MjModel, height: int = 84, width: int = 84, camera: int | str = 0, *,
                 samples: int = 4, shadows: bool = True, reflections: bool = True, output: str = "rgb",
                 distractors: str = "none") -> None:
        if distractors not in DISTRACTORS:
            raise ValueError(f"distractors must be one of {', '.join(DISTRACTORS)}, got {distractors!r}")
        strength = DISTRACTORS[distractors]
        self.scene = compile_scene(mj_model, height, width, camera, samples, shadows, reflections, output,
                                   distractors=distractors, hide_floor=strength.hide_floor, turning=strength.angle > 0)
        self._extent = float(mj_model.stat.extent)

    def look(self, key: Array) -> Look | None:
        """What an episode looks like; None without distractors. The key is consumed."""
        return None if self.scene.distractors == "none" else draw_look(key, self.scene, self._extent)

    def __call__(self, data: Any, look: Look | None = None) -> Array:
        """Picture (see `output`) of one world: mjx.Data, or mujoco.MjData after mj_forward. Pure: jit, vmap, export."""
        world = jax.tree.map(lambda leaf: leaf[None], (poses_of(self.scene, data), look))
        return _draw_batch(self.scene, *world)[0]

    def batch(self, data: Any, look: Look | None = None) -> Array:
        """Pictures of mjx.Data, and looks, with leading axis E."""
        return _draw_batch(self.scene, jax.vmap(partial(poses_of, self.scene))(data), look)
