"""RAD (Laskin et al. 2020): SAC on randomly translated or cropped images, with central ones for acting.

translate: the image is put at a random offset on a larger black canvas, the same offset for observation and next
observation. crop: two independent random windows. Both as in the authors' DMControl experiments.
Letters: B batch, H W image, C channels.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt8

from covr_jax.agents import augment
from covr_jax.agents.method import Augmentation, Method, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.config import ConfigError

Images = UInt8[Array | np.ndarray, "B H W C"]


def make(spec: MethodSpec) -> Method:
    """Returns SAC on RAD's images."""
    return Method(rad_augmentation(spec))


def rad_augmentation(spec: MethodSpec) -> Augmentation:
    """Returns the augmentation of a resolved kind and size (``methods.resolve_augmentation``).

    Raises:
      ConfigError: no augmentation, or a size that does not fit.
    """
    kind, size = spec.augment.kind, spec.augment.size
    makers: dict[str, Callable[[int, int], Augmentation]] = {
        "translate": partial(random_translate, center_crop=spec.augment.center_crop),
        "crop": random_crop,
    }
    if kind not in makers or size is None:
        raise ConfigError(f"{spec.name} without an augmentation is another method; use --method sac or --base sac")
    if kind != "translate" and spec.augment.center_crop is not None:
        raise ConfigError("--augment.center-crop is for translated images; drop it or use --augment.kind translate")
    try:
        return makers[kind](spec.image_size, size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def random_translate(image_size: int, canvas: int, center_crop: int | None = None) -> Augmentation:
    """Returns translations of images, or of their central parts, onto a larger canvas.

    Args:
      image_size: height = width of the images, pixels.
      canvas: height = width of the canvas, pixels.
      center_crop: height = width of the central part, pixels, whose canvas is as large as the images; then sampled
        actions see the images as they are, as in the authors' code. None: all of the image.

    Raises:
      ValueError: canvas < image_size, or a central part that is larger than the image or on another canvas.
    """
    if canvas < image_size:
        raise ValueError(f"translate needs augment.size >= env.image_size, got {canvas} < {image_size}")
    if center_crop is not None and not center_crop <= image_size == canvas:
        raise ValueError(
            f"translate needs augment.center_crop <= env.image_size = augment.size, got {center_crop}, {image_size} and"
            f" {canvas}"
        )
    placed = image_size if center_crop is None else center_crop
    margin, edge = canvas - placed, (image_size - placed) // 2

    def place(images: Images, offsets: Array) -> UInt8[Array, "B H2 W2 C"]:
        _check_side(images, image_size)
        part = jnp.asarray(images)[:, edge : edge + placed, edge : edge + placed]
        return augment.translate(part, offsets, canvas)

    def pair(key: PRNGKeyArray, observation: Images, next_observation: Images) -> Views:
        offsets = augment.random_offsets(key, observation.shape[0], margin)
        return Views((place(observation, offsets),), (place(next_observation, offsets),))

    def random(key: PRNGKeyArray, images: Images) -> UInt8[Array, "B H2 W2 C"]:
        return place(images, augment.random_offsets(key, images.shape[0], margin))

    def center(images: Images) -> UInt8[Array, "B H2 W2 C"]:
        return place(images, jnp.full((images.shape[0], 2), margin // 2))

    return Augmentation(pair, center, random, None if center_crop is None else jnp.asarray)


def random_crop(image_size: int, window: int) -> Augmentation:
    """Returns crops of images to a smaller window.

    Args:
      image_size: height = width of the images, pixels.
      window: height = width of the window, pixels.

    Raises:
      ValueError: window > image_size or window < 1.
    """
    margin = image_size - window
    if margin < 0 or window < 1:
        raise ValueError(f"crop needs 1 <= augment.size <= env.image_size, got {window} and {image_size}")

    def random(key: PRNGKeyArray, images: Images) -> UInt8[Array, "B H2 W2 C"]:
        _check_side(images, image_size)
        return augment.crop(images, augment.random_offsets(key, images.shape[0], margin), window)

    def pair(key: PRNGKeyArray, observation: Images, next_observation: Images) -> Views:
        key, next_key = jax.random.split(key)
        return Views((random(key, observation),), (random(next_key, next_observation),))

    def center(images: Images) -> UInt8[Array, "B H2 W2 C"]:
        _check_side(images, image_size)
        return augment.crop(images, jnp.full((images.shape[0], 2), margin // 2), window)

    return Augmentation(pair, center, random)


def _check_side(images: Images, image_size: int) -> None:
    """Raises ValueError for images of another size, of which a corner would be taken for the whole."""
    if images.shape[1:3] != (image_size, image_size):
        raise ValueError(f"the method was made for images of {image_size} pixels, got {list(images.shape[1:3])}")
