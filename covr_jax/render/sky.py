"""The skybox behind everything: an infinitely far cube has no parallax, so a camera that does not turn always sees the
same picture of it, made once in NumPy.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np


def sky_image(model: mujoco.MjModel, rotation: np.ndarray, height: int, width: int, tangent: float) -> np.ndarray:
    """u8[H,W,3]: the skybox seen by a camera with `rotation` (float64[3,3], columns right, up, back).

    Black without a skybox, as GL's clear colour. Follows GL's cube-map rules: box-filtered mip levels, bilinear inside
    a level, linear between the two levels around log2 of the largest texel step per pixel.
    """
    levels = _mip_levels(model)
    if levels is None:
        return np.zeros((height, width, 3), np.uint8)
    centre = _directions(rotation, height, width, tangent, 0.5, 0.5)
    face = _face(centre, np)
    u, v = _project(centre, face, np)
    step = [0.0]
    for row, column in ((0.5, 1.5), (1.5, 0.5)):
        next_u, next_v = _project(_directions(rotation, height, width, tangent, row, column), face, np)
        step += [np.abs(next_u - u), np.abs(next_v - v)]
    size = levels[0].shape[1]
    lod = np.clip(np.log2(np.maximum(np.maximum.reduce(np.broadcast_arrays(*step)) * size, 1e-9)), 0, len(levels) - 1)
    image = sum(
        np.maximum(0.0, 1.0 - np.abs(lod - k))[..., None] * _bilinear(level, face, u, v, np)
        for k, level in enumerate(levels)
    )
    return np.round(image).astype(np.uint8)


def sky_cube(model: mujoco.MjModel, pixel: float) -> np.ndarray:
    """u8[6,n,n,3]: the mip level whose texels, in the middle of a face, come nearest to pixels of width `pixel`."""
    levels = _mip_levels(model)
    if levels is None:
        return np.zeros((6, 1, 1, 3), np.uint8)
    level = round(np.log2(max(pixel * levels[0].shape[1] / 2, 1.0)))
    return levels[min(level, len(levels) - 1)].astype(np.uint8)


def look_up(cube: np.ndarray, direction: tuple[Any, Any, Any]) -> Any:
    """f32[...,3] in 0..255: `cube` seen along world `direction`. For cameras that turn; the others have an image."""
    direction = jnp.stack(direction, -1)
    face = _face(direction, jnp)
    return _bilinear(jnp.asarray(cube), face, *_project(direction, face, jnp), jnp)


def _mip_levels(model: mujoco.MjModel) -> list[np.ndarray] | None:
    """Levels float64[6,n,n,3] in 0..255, each half as wide and rounded to whole levels as GL stores them."""
    boxes = [k for k in range(model.ntex) if model.tex_type[k] == int(mujoco.mjtTexture.mjTEXTURE_SKYBOX)]
    if not boxes:
        return None
    texture = boxes[0]
    size, channels, start = int(model.tex_width[texture]), int(model.tex_nchannel[texture]), int(model.tex_adr[texture])
    texels = model.tex_data[start : start + 6 * size * size * channels].reshape(6, size, size, channels)[..., :3]
    levels = [texels.astype(np.float64)]
    while levels[-1].shape[1] > 1:
        half = levels[-1].shape[1] // 2
        quads = levels[-1][:, : 2 * half, : 2 * half].reshape(6, half, 2, half, 2, 3)
        levels.append(np.round(quads.mean((2, 4))))
    return levels


def _directions(rotation, height, width, tangent, row, column) -> np.ndarray:
    x = (2 * (np.arange(width) + column) / width - 1) * tangent * width / height
    y = (1 - 2 * (np.arange(height) + row) / height) * tangent
    return x[None, :, None] * rotation[:, 0] + y[:, None, None] * rotation[:, 1] - rotation[:, 2]


def _cube_axes(direction):
    """MuJoCo stores the cube with y up: GL's (x, y, z) is the world's (x, z, -y)."""
    return direction[..., 0], direction[..., 2], -direction[..., 1]


def _face(direction, xp):
    """Face 0..5 = +x, -x, +y, -y, +z, -z of the largest component."""
    axes = xp.stack(_cube_axes(direction), -1)
    axis = xp.abs(axes).argmax(-1)
    return 2 * axis + (xp.take_along_axis(axes, axis[..., None], -1)[..., 0] <= 0)


def _project(direction, face, xp):
    """Face coordinates u, v in 0..1, by the table of the GL specification's cube-map section."""
    x, y, z = _cube_axes(direction)
    s = xp.choose(face, [-z, z, x, x, x, -x], mode="clip")
    t = xp.choose(face, [-y, -y, z, -z, -y, -y], mode="clip")
    major = xp.choose(face // 2, [xp.abs(x), xp.abs(y), xp.abs(z)], mode="clip")
    return (s / major + 1) / 2, (t / major + 1) / 2


def _bilinear(level, face, u, v, xp):
    size = level.shape[1]
    x, y = u * size - 0.5, v * size - 0.5
    x0, y0 = xp.floor(x).astype(int), xp.floor(y).astype(int)
    fx, fy = (x - x0)[..., None], (y - y0)[..., None]

    def texel(row, column):
        return level[face, xp.clip(row, 0, size - 1), xp.clip(column, 0, size - 1)]

    top = texel(y0, x0) * (1 - fx) + texel(y0, x0 + 1) * fx
    bottom = texel(y0 + 1, x0) * (1 - fx) + texel(y0 + 1, x0 + 1) * fx
    return top * (1 - fy) + bottom * fy
