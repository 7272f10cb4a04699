"""Textures. A checker is computed without texels, any other image is looked up in its mip levels.

Letters: N texels, L mip levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from covr_jax.render.vector import Floats, Index


@dataclass(frozen=True)
class Texture:
    """A two-colour checker of 2 x 2 cells per repeat, or an image or a cube, whose mean is then in both colours."""

    first: Floats  # rgb in 0..1 of the cells with u and v in the same half
    second: Floats  # rgb in 0..1 of the other cells and of the edge mark
    width: int  # texels
    height: int  # texels
    edge: int  # texels of the edge mark around the image
    repeat: Floats  # repeats per plane, or per metre where `uniform`
    uniform: bool
    image: bytes  # u8[height,width,3]; empty for a checker or a cube
    cube: bytes = b""  # u8[6,n,n,3] of a cube of more than one colour, else empty


def read_texture(model: mujoco.MjModel, material: int, index: int) -> Texture:
    """Reads texture `index` as `material` uses it. A texture of one colour is read as a checker.

    Args:
      model: the model.
      material: index of the material.
      index: index of the texture.
    """
    height, width, channels = int(model.tex_height[index]), int(model.tex_width[index]), int(model.tex_nchannel[index])
    start = int(model.tex_adr[index])
    texels = model.tex_data[start : start + height * width * channels].reshape(height, width, channels)[..., :3]
    first, second = texels[height // 4, width // 4], texels[height // 4, (3 * width) // 4]
    same_half = np.equal.outer(np.arange(height) * 2 < height, np.arange(width) * 2 < width)
    wrong = (np.where(same_half[..., None], first, second) != texels).any(-1)
    flat = model.tex_type[index] == int(mujoco.mjtTexture.mjTEXTURE_2D)
    border = np.ones_like(wrong)
    border[1:-1, 1:-1] = False
    edge = int(wrong.any() and not wrong[~border].any() and (texels[border] == second).all())
    image = b""
    if not flat or (wrong.any() and not edge):
        first = second = texels.mean((0, 1))
        image = texels.tobytes() if flat else b""
    cube = b""
    if not flat and (texels != texels[0, 0]).any():
        cube = texels.tobytes() * (6 if height == width else 1)
    return Texture(
        first=_colour(first),
        second=_colour(second),
        width=width,
        height=height,
        edge=edge,
        repeat=tuple(float(x) for x in model.mat_texrepeat[material]),
        uniform=bool(model.mat_texuniform[material]),
        image=image,
        cube=cube,
    )


def _colour(texel: np.ndarray) -> Floats:
    return tuple(float(level) / 255.0 for level in texel)


def halve(level: Float[np.ndarray, "*shape"], axis: int) -> Float[np.ndarray, "*half"]:
    """Makes the next mip level along an axis, of half as many texels, as Mesa does: by linear interpolation.

    The mean of two texels, unless their number is odd. One texel stays.
    """
    count = level.shape[axis]
    if count % 2 == 0:
        near, far = (level[(slice(None),) * (axis % level.ndim) + (slice(k, None, 2),)] for k in (0, 1))
        return near + (far - near) * 0.5
    half = max(count // 2, 1)
    place = np.clip((np.arange(half) + 0.5) * (count / half) - 0.5, 0, count - 1)
    left = np.minimum(place.astype(int), max(count - 2, 0))
    share = (place - left).reshape([-1 if k == axis % level.ndim else 1 for k in range(level.ndim)])
    near, far = (level.take(np.minimum(left + k, count - 1), axis) for k in (0, 1))
    return near + (far - near) * share


@lru_cache(maxsize=8)
def mip_levels(texture: Texture) -> tuple[Int32[np.ndarray, " N"], Int32[np.ndarray, "L 3"]]:
    """Computes the mip levels. Each is made by `halve` from the one before and rounded to 8 bits as GL stores them.

    Returns:
      Texels of all levels, one level after the other, red in the lowest byte; start, height and width of each level.
    """
    texels = np.frombuffer(texture.image, np.uint8).reshape(texture.height, texture.width, 3)
    levels: list[Any] = [texels.astype(np.float64)]
    while levels[-1].shape[:2] != (1, 1):
        levels.append(np.round(halve(halve(levels[-1], 0), 1)))
    return pack_levels(levels)


def pack_levels(
    levels: list[Float[np.ndarray, "*faces height width 3"]],
) -> tuple[Int32[np.ndarray, " N"], Int32[np.ndarray, "L 3"]]:
    """Packs mip levels in 0..255.

    Returns:
      Texels of all levels, one level after the other, red in the lowest byte; start, height and width of each level.
    """
    texels, table, start = [], [], 0
    for level in levels:
        red, green, blue = (level[..., k].astype(np.int32).ravel() for k in range(3))
        texels.append(red | (green << 8) | (blue << 16))
        table.append((start, *level.shape[-3:-1]))
        start += red.size
    return np.concatenate(texels), np.array(table, np.int32)


def look_up(
    texture: Texture, u: Float[Array, "*shape"], v: Float[Array, "*shape"], squared_step: Float[Array, "*shape"]
) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"], Float[Array, "*shape"]]:
    """Looks up a repeated image with GL's trilinear filter.

    The filter is bilinear in the two levels around log2 of the step and linear between them.

    Args:
      texture: the texture.
      u: coordinate along the rows, in repeats.
      v: coordinate along the columns, in repeats.
      squared_step: square of the distance of neighbouring pixels in texels.

    Returns:
      Red, green and blue in 0..1.
    """
    texels, table = (jnp.asarray(part) for part in mip_levels(texture))

    def sample(level: Array) -> list[Any]:
        start, height, width = (table[level, k] for k in range(3))
        return bilinear(texels, start, height, width, u, v, wrap=True)

    return trilinear(sample, len(table), squared_step)


def trilinear(sample: Callable[[Array], list[Any]], levels: int, squared_step: Array) -> tuple[Any, Any, Any]:
    """GL's filter across mip levels: linear between the two levels around log2 of the step.

    Args:
      sample: from the level of each pixel to three channels in 0..255.
      levels: number of mip levels.
      squared_step: square of the distance of neighbouring pixels in texels.

    Returns:
      Red, green and blue in 0..1.
    """
    lod = jnp.clip(0.5 * jnp.log2(jnp.maximum(squared_step, 1.0)), 0.0, levels - 1.0)
    below = jnp.floor(lod).astype(jnp.int32)
    share = lod - below
    near, far = sample(below), sample(jnp.minimum(below + 1, levels - 1))
    red, green, blue = ((a + (b - a) * share) / 255.0 for a, b in zip(near, far, strict=True))
    return red, green, blue


def bilinear(
    texels: Int[Array, " N"], start: Index, height: Index, width: Index, u: Array, v: Array, wrap: bool
) -> list[Any]:
    """Bilinear lookup in an image.

    Args:
      texels: packed texels of all images.
      start: where the image of each pixel starts in `texels`.
      height: rows of the image.
      width: columns of the image.
      u: coordinate along the rows, in images.
      v: coordinate along the columns, in images.
      wrap: whether the image repeats; else its border goes on.

    Returns:
      Three channels in 0..255.
    """
    x, y = u * width - 0.5, v * height - 0.5
    column, row = jnp.floor(x), jnp.floor(y)
    fx, fy = x - column, y - row
    column, row = column.astype(jnp.int32), row.astype(jnp.int32)

    def inside(place: Array, count: Index) -> Array:
        return jnp.mod(place, count) if wrap else jnp.clip(place, 0, count - 1)

    corners = [
        texels[start + inside(row + down, height) * width + inside(column + right, width)]
        for down in (0, 1)
        for right in (0, 1)
    ]
    weights = [(1 - fy) * (1 - fx), (1 - fy) * fx, fy * (1 - fx), fy * fx]
    return [
        sum(((corner >> shift) & 255) * weight for corner, weight in zip(corners, weights, strict=True))
        for shift in (0, 8, 16)
    ]
