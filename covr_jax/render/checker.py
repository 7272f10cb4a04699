"""Checker textures as GL filters them, without texels.

In every mip level a 2 x 2 checker is the sum of two products of a wave along u and a wave along v, one for each pair of
cells of the first colour. The filter is linear, so it acts on each wave alone: two short tables stand for the image.
Letters: N texels along an axis, L mip levels.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from covr_jax.render.texture import halve
from covr_jax.render.vector import Block, Index


class Axis(NamedTuple):
    """Where a checker's waves along one axis stand in the table: numbers, or a value per pixel."""

    count: Index  # texels
    start: Index  # first word in the table


def count_levels(width: int, height: int) -> int:
    """Number of mip levels down to one texel."""
    return max(width, height).bit_length()


def _first_word(count: Index, level: Index) -> Index:
    """Where a level starts in `wave_words`: behind those before it, which have max(count >> k, 1) + 1 words each."""
    return 2 * count - ((2 * count) >> level) + 2 * level


@lru_cache(maxsize=32)
def wave_words(count: int, edge: int, levels: int) -> UInt32[np.ndarray, " words"]:
    """Computes the two waves along one axis in all mip levels.

    Args:
      count: texels along the axis.
      edge: texels of the edge mark, in which both waves are 0.
      levels: number of mip levels.

    Returns:
      For each level, one word per pair of neighbouring texels, from the last and the first one on: the first wave at
      both, then the second wave at both, 8 bits each, lowest bits first.
    """
    texel = np.arange(count)
    first = (texel >= edge) & (2 * texel < count)
    second = (texel < count - edge) & (2 * texel >= count)
    waves = np.stack([first, second]).astype(np.float64)
    words = np.zeros(_first_word(count, levels), np.uint32)
    for level in range(levels):
        left, right = (np.round(255 * np.roll(waves, shift, 1)).astype(np.uint32) for shift in (1, 0))
        packed = left[0] | (right[0] << 8) | (left[1] << 16) | (right[1] << 24)
        start = _first_word(count, level)
        words[start : start + len(packed) + 1] = np.append(packed, packed[0])
        waves = halve(waves, 1)
    return words


def checker(
    words: UInt32[Array | np.ndarray, " words"],
    axes: tuple[Axis, Axis],
    levels: Int[Array, "*shape"] | float,
    position: tuple[Block, Block],
    squared_step: Block,
) -> Float[Array, "*shape"]:
    """Share of the first colour by GL's trilinear filter: bilinear in two mip levels and linear between them.

    Args:
      words: `wave_words` of both axes, of all checkers one after the other.
      axes: where the checker's axes are in `words`.
      levels: number of mip levels.
      position: coordinates u and v, in repeats.
      squared_step: square of the distance of neighbouring pixels, in texels.
    """
    table = jnp.asarray(words)
    lod = jnp.minimum(0.5 * jnp.log2(jnp.maximum(squared_step, 1.0)), levels - 1.0)
    below = jnp.floor(lod)
    above = jnp.minimum(below + 1.0, levels - 1.0)
    inside = [x - jnp.floor(x) for x in position]

    def share(level: Array) -> Array:
        first = second = jnp.float32(1.0)
        for axis, x in zip(axes, inside, strict=True):
            count = jnp.asarray(axis.count, jnp.int32)
            x = x * jnp.maximum(count >> level, 1).astype(jnp.float32) + 0.5  # texel centres are whole
            left = jnp.floor(x)
            place = axis.start + _first_word(count, level) + left.astype(jnp.int32)
            word = table.at[place.astype(jnp.uint32)].get(mode="promise_in_bounds")
            a0, a1, b0, b1 = (((word >> shift) & 255).astype(jnp.int32).astype(jnp.float32) for shift in (0, 8, 16, 24))
            first = first * (a0 + (a1 - a0) * (x - left))
            second = second * (b0 + (b1 - b0) * (x - left))
        return first + second

    near, far = (share(level.astype(jnp.int32)) for level in (below, above))
    return (near + (far - near) * (lod - below)) * np.float32(1 / 255**2)
