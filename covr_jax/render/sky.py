"""The skybox.

The cube is infinitely far and has no parallax. A camera that does not turn always sees the same image of it, which is
made once in NumPy. An orthographic camera sees what MuJoCo draws: a small part of a cylinder around the camera, which
bears the cube. Letters: H W image, n texels along an edge of the cube.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, UInt8

from covr_jax.render.cube import cube_levels, face_of, project
from covr_jax.render.scene import Lens
from covr_jax.render.vector import Block, Vec, vec

REACH = 0.7  # radius and half height of the cylinder over the distance of the far clipping plane


def sky_image(
    model: mujoco.MjModel, rotation: Float[np.ndarray, "3 3"], height: int, width: int, lens: Lens
) -> UInt8[np.ndarray, "H W 3"]:
    """Draws the skybox as a camera that does not turn sees it.

    Follows GL's cube-map rules: bilinear inside a mip level, linear between the two levels around log2 of the largest
    texel step per pixel.

    Args:
      model: the model.
      rotation: orientation of the camera; columns right, up, back.
      height: image height in pixels.
      width: image width in pixels.
      lens: the pixels on the image plane.

    Returns:
      The image; black without a skybox, which is GL's clear colour.
    """
    levels = _mip_levels(model)
    if levels is None:
        return np.zeros((height, width, 3), np.uint8)
    reach = REACH * float(model.stat.extent * model.vis.map.zfar)
    centre = _cube_axes(_directions(rotation, height, width, lens, 0.5, 0.5, reach))
    face = face_of(centre, np)
    u, v = project(centre, face, np)
    size, squares = levels[0].shape[1], []
    for row, column in ((0.5, 1.5), (1.5, 0.5)):
        neighbour = _cube_axes(_directions(rotation, height, width, lens, row, column, reach))
        next_u, next_v = project(neighbour, face, np)
        squares.append((next_u - u) ** 2 + (next_v - v) ** 2)
    squared_step = np.maximum(*squares) * size**2
    lod = np.clip(0.5 * np.log2(np.maximum(squared_step, 1e-9)), 0, len(levels) - 1)
    image = sum(
        np.maximum(0.0, 1.0 - np.abs(lod - k))[..., None] * _bilinear(level, face, u, v, np)
        for k, level in enumerate(levels)
    )
    return np.round(image).astype(np.uint8)


def sky_cube(model: mujoco.MjModel, lens: Lens) -> UInt8[np.ndarray, "6 n n 3"]:
    """Chooses the mip level whose texels in the middle of a face are nearest to the size of a pixel.

    Args:
      model: the model.
      lens: the pixels on the image plane.

    Returns:
      The six faces of the level; black without a skybox.
    """
    levels = _mip_levels(model)
    if levels is None:
        return np.zeros((6, 1, 1, 3), np.uint8)
    distance = REACH * float(model.stat.extent * model.vis.map.zfar) if lens.orthographic else 1.0
    level = round(np.log2(max(lens.height / distance * levels[0].shape[1] / 2, 1.0)))
    return levels[min(level, len(levels) - 1)].astype(np.uint8)


def look_up(cube: UInt8[np.ndarray, "6 n n 3"], direction: Vec) -> Float[Array, "... 3"]:
    """Looks up the skybox along directions in the world frame, for a camera that turns.

    Args:
      cube: from `sky_cube`.
      direction: of any length.

    Returns:
      Rgb in 0..255.
    """
    direction = _cube_axes(direction)
    face = face_of(direction, jnp)
    return _bilinear(jnp.asarray(cube), face, *project(direction, face, jnp), jnp)


def has_skybox(model: mujoco.MjModel) -> bool:
    """Whether the model has a skybox."""
    return int(mujoco.mjtTexture.mjTEXTURE_SKYBOX) in model.tex_type


def _mip_levels(model: mujoco.MjModel) -> list[np.ndarray] | None:
    """Mip levels float64[6,n,n,3] in 0..255, each half as wide and rounded to 8 bits as GL stores them."""
    if not has_skybox(model):
        return None
    texture = list(model.tex_type).index(int(mujoco.mjtTexture.mjTEXTURE_SKYBOX))
    size, channels, start = int(model.tex_width[texture]), int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    texels = model.tex_data[start : start + 6 * size * size * channels].reshape(6, size, size, channels)[..., :3]
    return cube_levels(texels)


def on_cylinder(start: Vec, forward: Vec, reach: Block, xp: Any) -> Vec:
    """Where parallel rays meet the upright cylinder, seen from inside, on which MuJoCo draws the sky.

    Args:
      start: of the rays, from the camera.
      forward: unit direction of the rays.
      reach: radius and half height of the cylinder, metres.
      xp: numpy or jax.numpy.
    """
    slope = xp.maximum(forward[0] ** 2 + forward[1] ** 2, 1e-12)
    drift = forward[0] * start[0] + forward[1] * start[1]
    inside = xp.maximum(reach**2 - start[0] ** 2 - start[1] ** 2, 0.0)
    side = (xp.sqrt(drift**2 + slope * inside) - drift) / slope
    rise = xp.where(xp.abs(forward[2]) < 1e-9, 1e-9, forward[2])
    cap = (xp.sign(rise) * reach - start[2]) / rise
    t = xp.minimum(side, cap)
    return tuple(start[k] + t * forward[k] for k in range(3))


def _directions(rotation, height, width, lens, row, column, reach) -> Vec:
    """Directions, float64[H,W] each, through the points (row, column) inside the pixels, each in 0..1."""
    x = (np.arange(width) + column - 0.5 * width) * lens.width + lens.x
    y = (0.5 * height - np.arange(height) - row) * lens.height + lens.y
    across, forward = x[None, :, None] * rotation[:, 0] + y[:, None, None] * rotation[:, 1], -rotation[:, 2]
    if lens.orthographic:
        return on_cylinder(vec(np.moveaxis(across, -1, 0)), vec(forward), reach, np)
    return vec(np.moveaxis(across + forward, -1, 0))


def _cube_axes(direction: Vec) -> Vec:
    """Converts to the axes of the cube, which MuJoCo stores with y up: (x, y, z) is (x, z, -y) of the world frame."""
    return direction[0], direction[2], -direction[1]


def _bilinear(level, face, u, v, xp):
    """Bilinear look-up inside a face, clamped at its edges."""
    size = level.shape[1]
    x, y = u * size - 0.5, v * size - 0.5
    x0, y0 = xp.floor(x).astype(int), xp.floor(y).astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]

    def texel(row, column):
        return level[face, xp.clip(row, 0, size - 1), xp.clip(column, 0, size - 1)]

    top = texel(y0, x0) * (1 - fx) + texel(y0, x0 + 1) * fx
    bottom = texel(y0 + 1, x0) * (1 - fx) + texel(y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy
