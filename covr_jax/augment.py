"""Image augmentations of visual RL, batched and jit-able. Letters: B batch, H W image, C channels."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from covr_jax.types import Array


def random_offsets(key: Array, batch_size: int, margin: int) -> Array:
    """Integer (row, column) offsets i32[B,2], uniform over 0..margin inclusive. The key is consumed."""
    return jax.random.randint(key, (batch_size, 2), 0, margin + 1)


def translate(images: Array, offsets: Array, size: int) -> Array:
    """Place each image at its offset on a black canvas (RAD's translate; Laskin et al. 2020).

    Args:
      images: u8[B,H,W,C]. offsets: i32[B,2] in 0..size-H. size: canvas height = width.

    Returns:
      u8[B,size,size,C].
    """

    margin = size - images.shape[1]
    # A window of the padded image: cutting is several times faster than writing into a canvas.
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    return crop(padded, margin - offsets, size)


def crop(images: Array, offsets: Array, size: int) -> Array:
    """Cut a size x size window at each image's offset (RAD's crop).

    Args:
      images: u8[B,H,W,C]. offsets: i32[B,2] in 0..H-size. size: window height = width.

    Returns:
      u8[B,size,size,C].
    """

    def cut(image: Array, offset: Array) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (size, size, image.shape[-1]))

    return jax.vmap(cut)(images, offsets)
