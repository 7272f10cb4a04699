"""Image augmentations of visual RL, batched and jit-able. Letters: B batch, H W image, C channels."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp

from covr_jax import runtime
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


def shift(images: Array, offsets: Array, margin: int) -> Array:
    """Move each image by up to ``margin`` pixels, its border repeated (DrQ; Kostrikov et al. 2020).

    DrQ-v2's bilinear version samples at pixel centres, which is the same picture.

    Args:
      images: u8[B,H,W,C]. offsets: i32[B,2] in 0..2*margin; ``margin`` leaves an image where it is.

    Returns:
      u8[B,H,W,C].
    """
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    return crop(padded, offsets, images.shape[1])


def intensity(images: Array, strength: Array) -> Array:
    """Each image times its strength f32[B]: u8[B,H,W,C] -> f32[B,H,W,C], 1 for a byte of 255 at strength 1."""
    return images.astype(jnp.float32) * (strength / 255.0)[:, None, None, None]


def random_conv(key: Array, images: Array) -> Array:
    """sigmoid(k * x) per image, with k a 3x3 kernel of N(0, 1) over colours and x in [0, 1] (Lee et al. 2019).

    The frames of a stack share the kernel. The border is repeated, and the result rounded to bytes.

    Args:
      key: consumed. images: u8[B,H,W,3*stack].

    Returns:
      u8[B,H,W,3*stack].
    """
    batch, height, width, channels = images.shape
    kernels = jax.random.normal(key, (batch, 3, 3, 3, 3))
    x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = x.reshape(batch, height + 2, width + 2, channels // 3, 3).transpose(0, 3, 4, 1, 2)
    return _mixed(x, kernels).transpose(0, 3, 4, 1, 2).reshape(images.shape)


@runtime.no_inline
def _mixed(x: Array, kernels: Array) -> Array:
    """The convolution and its sigmoid on planes u8[B,stack,3,H+2,W+2], as 27 sums of shifted planes: compilers turn
    them into one loop, where a convolution with a kernel per image is slow on CPU.

    Args:
      kernels: f32[B,3,3,3,3], HWIO.
    """
    x, y = x.astype(jnp.float32) / 255.0, 0.0
    height, width = x.shape[3] - 2, x.shape[4] - 2
    for row, column, colour in itertools.product(range(3), repeat=3):
        plane = x[:, :, None, colour, row : row + height, column : column + width]
        y = y + plane * kernels[:, None, row, column, colour, :, None, None]
    return jnp.round(255.0 * jax.nn.sigmoid(y)).astype(jnp.uint8)
