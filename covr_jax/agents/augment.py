"""Image augmentations of visual RL, batched and jit-able. Letters: B batch, H W image, C channels, S frame stack."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray, UInt8

from covr_jax import runtime


def random_offsets(key: PRNGKeyArray, batch_size: int, margin: int) -> Int[Array, "B 2"]:
    """Samples (row, column) offsets, uniform over the integers 0 to ``margin`` inclusive. The key is consumed."""
    return jax.random.randint(key, (batch_size, 2), 0, margin + 1)


def translate(
    images: UInt8[Array | np.ndarray, "B H W C"], offsets: Int[Array | np.ndarray, "B 2"], size: int
) -> UInt8[Array, "B {size} {size} C"]:
    """Puts each image at its offset on a black canvas (RAD's translate; Laskin et al. 2020).

    Args:
      images: square images.
      offsets: (row, column) of the image's corner on the canvas, 0 to size - H.
      size: height = width of the canvas, pixels.
    """
    margin = size - images.shape[1]
    # A window of the padded image: cutting is several times faster than writing into a canvas.
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)))
    return crop(padded, margin - offsets, size)


def crop(
    images: UInt8[Array | np.ndarray, "B H W C"], offsets: Int[Array | np.ndarray, "B 2"], size: int
) -> UInt8[Array, "B {size} {size} C"]:
    """Cuts a window at each image's offset (RAD's crop).

    Args:
      images: square images.
      offsets: (row, column) of the window's corner, 0 to H - size.
      size: height = width of the window, pixels.
    """

    def cut(image: Any, offset: Any) -> Array:
        return jax.lax.dynamic_slice(image, (offset[0], offset[1], 0), (size, size, image.shape[-1]))

    return jax.vmap(cut)(images, offsets)


def shift(
    images: UInt8[Array | np.ndarray, "B H W C"], offsets: Int[Array | np.ndarray, "B 2"], margin: int
) -> UInt8[Array, "B H W C"]:
    """Moves each image by up to ``margin`` pixels and repeats its border (DrQ; Kostrikov et al. 2020).

    DrQ-v2's bilinear version samples at pixel centres, which gives the same image.

    Args:
      images: square images.
      offsets: (row, column), 0 to 2 * margin; ``margin`` leaves an image unmoved.
      margin: largest shift, pixels.
    """
    padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
    return crop(padded, offsets, images.shape[1])


def intensity(
    images: UInt8[Array | np.ndarray, "B H W C"], strength: Float[Array | np.ndarray, " B"]
) -> Float[Array, "B H W C"]:
    """Multiplies each image by its strength and scales bytes to [0, 1]: 255 becomes 1 at strength 1."""
    return jnp.asarray(images).astype(jnp.float32) * jnp.asarray(strength / 255.0)[:, None, None, None]


def random_conv(key: PRNGKeyArray, images: UInt8[Array | np.ndarray, "B H W C"]) -> UInt8[Array, "B H W C"]:
    """Computes sigmoid(k * x) per image, with k a 3x3 kernel of N(0, 1) over colours, x in [0, 1] (Lee et al. 2019).

    The frames of a stack share the kernel. The border is repeated and the result rounded to bytes.

    Args:
      key: PRNG key, consumed.
      images: frame stacks, C = 3S.
    """
    batch, height, width, channels = images.shape
    kernels = jax.random.normal(key, (batch, 3, 3, 3, 3))
    x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge")
    x = x.reshape(batch, height + 2, width + 2, channels // 3, 3).transpose(0, 3, 4, 1, 2)
    return _conv_sigmoid(x, kernels).transpose(0, 3, 4, 1, 2).reshape(images.shape)


@runtime.no_inline
def _conv_sigmoid(x: UInt8[Array, "B S 3 rows columns"], kernels: Float[Array, "B 3 3 3 3"]) -> UInt8[Array, ...]:
    """Convolves planes with one kernel per image and applies the sigmoid.

    It adds up 27 shifted planes: compilers turn them into one loop, where a convolution with a kernel per image is slow
    on CPU.

    Args:
      x: padded planes, rows = H + 2, columns = W + 2.
      kernels: HWIO.

    Returns:
      u8[B,S,3,H,W].
    """
    x, y = x.astype(jnp.float32) / 255.0, 0.0
    height, width = x.shape[3] - 2, x.shape[4] - 2
    for row, column, colour in itertools.product(range(3), repeat=3):
        plane = x[:, :, None, colour, row : row + height, column : column + width]
        y = y + plane * kernels[:, None, row, column, colour, :, None, None]
    return jnp.round(255.0 * jax.nn.sigmoid(y)).astype(jnp.uint8)
