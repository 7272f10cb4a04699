"""Which pixels a stage works on: squares of pixels, and on a CPU only those squares where there is something to do."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.render.raycast import Array
from covr_jax.render.view import WORLDS, anywhere, one_by_one

SIDE = 4  # pixels of a group per axis
GROUP = SIDE * SIDE
TILE = 64  # groups that a CPU looks at together
CHUNK = 64  # groups that a CPU shades together


def pixel_order(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels in drawing order, int[T,P]: T tiles, each whole groups one after the other.

    The last row, column and group are repeated where the picture does not fill up the last ones. An accelerator draws
    all of the picture as one tile.
    """
    down, across = -(-height // SIDE), -(-width // SIDE)
    tiles = -(-down * across // TILE) if one_by_one() else 1
    groups = np.minimum(np.arange(-(-down * across // tiles) * tiles), down * across - 1)[:, None]
    pixels = np.arange(GROUP)
    row = np.minimum(groups // across * SIDE + pixels // SIDE, height - 1)
    column = np.minimum(groups % across * SIDE + pixels % SIDE, width - 1)
    return row.reshape(tiles, -1), column.reshape(tiles, -1)


def to_image(pixels: Array, height: int, width: int) -> Array:
    """[H,W] from values [T,P] in drawing order."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    squares = pixels.reshape(-1)[: down * across * GROUP].reshape(down, across, SIDE, SIDE)
    return squares.transpose(0, 2, 1, 3).reshape(down * SIDE, across * SIDE)[:height, :width]


def by_group(pixels: Array) -> Array:
    """[...,G,GROUP] from [...,P]."""
    return pixels.reshape(*pixels.shape[:-1], -1, GROUP)


def masked_apply(mask: Array, stage: Callable[..., Array], data: tuple[Array, ...], otherwise: Array) -> Array:
    """`stage(*data)` in every group with a pixel of `mask`, `otherwise` elsewhere; what it gives for a pixel outside
    of `mask` means nothing.

    Args:
      mask: bool[P], P whole groups.
      stage: works pixel by pixel on any number of groups, [...,P'] from arrays of shape [...,P'].
      data: arrays [...,P].
      otherwise: [...,P], the shape and dtype of the result.

    A CPU lists the groups of each world and works through the lists chunk by chunk until the longest one ends. An
    accelerator runs the stage on everything, unless no world needs it.
    """
    if not one_by_one():
        return jax.lax.cond(anywhere(mask), lambda: stage(*data), lambda: otherwise)
    data = tuple(jnp.asarray(leaf) for leaf in data)
    needed = by_group(mask).any(-1)
    place = jnp.cumsum(needed) - 1
    count = len(needed)
    slots = -(-count // CHUNK) * CHUNK
    listed = (
        jnp.zeros(slots, jnp.int32)
        .at[jnp.where(needed, place, slots)]
        .set(jnp.arange(count, dtype=jnp.int32), mode="drop", unique_indices=True)
    )

    def work(state: tuple[Array, Array]) -> tuple[Array, Array]:
        first, done = state
        chosen = jax.lax.dynamic_slice_in_dim(listed, first, CHUNK)
        part = stage(*(by_group(leaf)[..., chosen, :].reshape(*leaf.shape[:-1], -1) for leaf in data))
        return first + CHUNK, jax.lax.dynamic_update_slice_in_dim(done, part, first * GROUP, axis=-1)

    last = jax.lax.pmax(place[-1], WORLDS)
    done = jnp.zeros((*otherwise.shape[:-1], slots * GROUP), otherwise.dtype)
    _, done = jax.lax.while_loop(lambda state: state[0] <= last, work, (jnp.int32(0), done))
    found = jnp.where(needed[:, None], by_group(done)[..., place, :], by_group(otherwise))
    return found.reshape(otherwise.shape)
