"""The renderer: poses in, picture out."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import mujoco
import numpy as np

from covr_jax.render.plane import shade_planes, shade_reflection
from covr_jax.render.poses import Poses, poses_of
from covr_jax.render.raycast import Array, Code, Pose, Vec, sub
from covr_jax.render.scene import Scene, compile_scene
from covr_jax.render.shade import Light, View, shade_solids, unpack_colour, visible


def _vec(row: Array) -> Vec:
    return row[0], row[1], row[2]


def view_of(scene: Scene, poses: Poses) -> View:
    """Unpacks `poses` into scalars relative to the camera: floors span hundreds of metres, and float32 is sharp only
    near the origin."""
    eye = _vec(poses.camera_position)
    items = tuple(
        Pose(sub(_vec(poses.item_position[k]), eye), tuple(_vec(poses.item_rotation[k, :, a]) for a in range(3)))
        for k in range(len(scene.items)))
    right, up, back = (_vec(poses.camera_rotation[:, a]) for a in range(3))
    forward = tuple(-b for b in back)
    lights, row = [], 0
    for constants in scene.lights:
        if constants.index < 0:
            lights.append(Light(constants, (0.0, 0.0, 0.0), forward))
            continue
        lights.append(Light(constants, sub(_vec(poses.light_position[row]), eye), _vec(poses.light_direction[row])))
        row += 1
    return View(scene, items, tuple(lights), forward, right, up)


def draw(scene: Scene, poses: Poses) -> Array:
    """uint8[H,W,3] picture of one world.

    Four stages, each a conditional: what nobody sees is not shaded, and a conditional is a boundary across which the
    compiler does not merge (and so repeat) work.
    """
    view = view_of(scene, poses)
    height, width = scene.height, scene.width
    pixel = 2 * scene.tangent / height
    number = jnp.arange(height * width, dtype=jnp.int32)
    column, row = (number % width).astype(jnp.float32), (number // width).astype(jnp.float32)
    x = (column + 0.5 - 0.5 * width) * np.float32(pixel)
    y = (0.5 * height - 0.5 - row) * np.float32(pixel)
    packed = draw_block(view, x, y, _sky(scene))
    colour = jnp.stack([(packed >> shift) & 255 for shift in (0, 8, 16)], -1)
    return colour.astype(jnp.uint8).reshape(height, width, 3)


def _sky(scene: Scene) -> np.ndarray:
    levels = np.frombuffer(scene.sky, np.uint8).reshape(-1, 3).astype(np.int32)
    return levels[:, 0] | (levels[:, 1] << 8) | (levels[:, 2] << 16)


def draw_block(view: View, x: Array, y: Array, sky: Array) -> Array:
    """int32[P] colours (8 bits each, red lowest) of pixels with centres `x, y` (f32[P]) over `sky` (int32[P])."""
    scene = view.scene
    code = Code.of(len(scene.items))
    pixel = 2 * scene.tangent / scene.height
    samples = np.asarray(scene.samples, np.float32)
    offsets = (samples[:, :1] - 0.5) * np.float32(pixel), (0.5 - samples[:, 1:]) * np.float32(pixel)
    blank = jnp.zeros(x.shape, jnp.int32)
    layers = []  # (coverage, colour) of the planes and of the solids
    if not scene.items:
        return sky + blank
    seen = visible(view, view.rays(x[None] + offsets[0], y[None] + offsets[1]), tuple(range(len(scene.items))), code)
    index = code.index(seen)
    rays = view.rays(x, y)

    def layer(items, shade):
        mine = jnp.zeros(seen.shape, bool)
        for k in items:
            mine = mine | (index == k)
        winner = code.index(jnp.where(mine, seen, code.none).min(0))
        colour = jax.lax.cond(mine.any(), shade, lambda _: blank, winner)
        layers.append((mine.astype(jnp.float32).mean(0), unpack_colour(colour)))

    def planes(winner):
        reflection = blank
        if scene.mirror is not None and len(scene.items) > 1:
            reflection = jax.lax.cond((winner == scene.mirror).any(), lambda w: shade_reflection(
                view, x, y, offsets, w, code), lambda _: blank, winner)
        return shade_planes(view, rays, winner, reflection)

    if scene.floors:
        layer(scene.floors, planes)
    if scene.solids:
        layer(scene.solids, lambda winner: shade_solids(view, rays, winner))
    background = 1.0 - sum(coverage for coverage, _ in layers)
    colour = [((sky >> shift) & 255).astype(jnp.float32) * background for shift in (0, 8, 16)]
    for coverage, shade in layers:
        colour = [c + 255.0 * coverage * s for c, s in zip(colour, shade)]
    red, green, blue = (jnp.round(jnp.clip(c, 0.0, 255.0)).astype(jnp.int32) for c in colour)
    return red | (green << 8) | (blue << 16)


_draw = partial(jax.jit, static_argnums=0)(draw)


@partial(jax.jit, static_argnums=0)
def _draw_batch(scene: Scene, poses: Poses) -> Array:
    """One world after the other on a CPU, whose cache holds one; side by side on an accelerator."""
    if jax.default_backend() == "cpu":
        return jax.lax.map(partial(draw, scene), poses)
    return jax.vmap(partial(draw, scene))(poses)


class Renderer:
    """Draws a MuJoCo scene in pure jax.numpy, after MuJoCo's classic OpenGL picture.

    Args:
      mj_model: the model; read once, not kept.
      height, width: picture size in pixels.
      camera: row or name of a fixed or tracking perspective camera of the model.
      samples: visibility samples per pixel, 1, 2 or 4. Each pixel is shaded once at its centre in any case.
      shadows: whether lights with `castshadow` cast shadows.
      reflections: whether the first reflective plane mirrors the scene.

    Raises:
      ValueError: for a camera that does not exist, for meshes, height fields, skins and flexes, and for bad sizes.
    """

    def __init__(self, mj_model: mujoco.MjModel, height: int = 84, width: int = 84, camera: int | str = 0, *,
                 samples: int = 4, shadows: bool = True, reflections: bool = True) -> None:
        self.scene = compile_scene(mj_model, height, width, camera, samples, shadows, reflections)

    def __call__(self, data: Any) -> Array:
        """uint8[H,W,3] picture of one world: mjx.Data, or a mujoco.MjData after mj_forward. Pure; jit and vmap freely."""
        return _draw(self.scene, poses_of(self.scene, data))

    def batch(self, data: Any) -> Array:
        """uint8[E,H,W,3] pictures of mjx.Data with leading axis E."""
        return _draw_batch(self.scene, jax.vmap(partial(poses_of, self.scene))(data))
