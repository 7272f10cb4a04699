"""Groups of pixels: 4 x 4 squares, of which a CPU processes only those that a stage needs.

Letters: T tiles, G groups, P pixels (whole groups, one after the other), H W image.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Shaped

from covr_jax.render.view import ENV_AXIS, SIDE, any_pixel, one_by_one, when

GROUP = SIDE * SIDE
TILE = 64  # groups that a CPU processes together to find what is visible
CHUNK = 64  # groups that a CPU shades together


def pixel_order(height: int, width: int) -> tuple[Int[np.ndarray, "T P"], Int[np.ndarray, "T P"]]:
    """Rows and columns of the pixels in drawing order.

    The last row, column and group are repeated where the image does not fill the last group or tile. An accelerator
    draws the whole image as one tile.
    """
    down, across = -(-height // SIDE), -(-width // SIDE)
    tiles = -(-down * across // TILE) if one_by_one() else 1
    groups = np.minimum(np.arange(-(-down * across // tiles) * tiles), down * across - 1)[:, None]
    pixels = np.arange(GROUP)
    row = np.minimum(groups // across * SIDE + pixels // SIDE, height - 1)
    column = np.minimum(groups % across * SIDE + pixels % SIDE, width - 1)
    return row.reshape(tiles, -1), column.reshape(tiles, -1)


def to_image(pixels: Shaped[Array | np.ndarray, "T P"], height: int, width: int) -> Shaped[Array | np.ndarray, "H W"]:
    """Rearranges values from drawing order into an image."""
    down, across = -(-height // SIDE), -(-width // SIDE)
    squares = pixels.reshape(-1)[: down * across * GROUP].reshape(down, across, SIDE, SIDE)
    return squares.transpose(0, 2, 1, 3).reshape(down * SIDE, across * SIDE)[:height, :width]


def by_group(pixels: Shaped[Array | np.ndarray, "*batch P"]) -> Shaped[Array | np.ndarray, "*batch G pixels"]:
    """Splits the last axis into groups of GROUP pixels."""
    return pixels.reshape(*pixels.shape[:-1], -1, GROUP)


def masked_apply(
    mask: Bool[Array, " P"],
    stage: Callable[..., Array],
    data: tuple[Shaped[Array | np.ndarray, "... P"], ...],
    otherwise: Shaped[Array, "... P"],
) -> Shaped[Array, "... P"]:
    """Applies a stage to the groups of pixels that need it.

    A CPU lists the needed groups of each env and works through the lists chunk by chunk until the longest one ends. An
    accelerator applies the stage to all pixels, unless no env needs it.

    Args:
      mask: pixels that need the stage.
      stage: elementwise over pixels, on any whole number of groups.
      data: arguments of the stage.
      otherwise: values where the stage is not applied; shape and dtype of the result.

    Returns:
      `stage(*data)` in every group with a pixel of `mask`, `otherwise` in the others. Values of pixels outside of
      `mask` are not defined.
    """
    if not one_by_one():
        return when(any_pixel(mask), lambda: stage(*data), otherwise)
    data = tuple(jnp.asarray(leaf) for leaf in data)
    needed = jnp.any(by_group(mask), -1)
    position = jnp.cumsum(needed) - 1
    count = len(needed)
    num_slots = -(-count // CHUNK) * CHUNK
    listed = (
        jnp.zeros(num_slots, jnp.int32)
        .at[jnp.where(needed, position, num_slots)]
        .set(jnp.arange(count, dtype=jnp.int32), mode="drop", unique_indices=True)
    )

    def work(state: tuple[Array, Array]) -> tuple[Array, Array]:
        first, done = state
        chosen = jax.lax.dynamic_slice_in_dim(listed, first, CHUNK)
        part = stage(*(by_group(leaf)[..., chosen, :].reshape(*leaf.shape[:-1], -1) for leaf in data))
        return first + CHUNK, jax.lax.dynamic_update_slice_in_dim(done, part, first * GROUP, axis=-1)

    last_of_env = position[-1]
    last = jax.lax.pmax(last_of_env, ENV_AXIS)
    nothing = (0 * last_of_env).astype(otherwise.dtype)  # per env: vmap would trace the loop again to find that out
    done = jnp.zeros((*otherwise.shape[:-1], num_slots * GROUP), otherwise.dtype) + nothing
    _, done = jax.lax.while_loop(lambda state: state[0] <= last, jax.jit(work), (jnp.int32(0), done))
    found = jnp.where(needed[:, None], by_group(done)[..., position, :], by_group(otherwise))
    return found.reshape(otherwise.shape)
