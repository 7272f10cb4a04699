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
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.config import ConfigError

Images = UInt8[Array | np.ndarray, "B H W C"]

HYPERPARAMETERS = PublishedHyperparameters(
    source="MishaLaskin/rad: train.py, curl_sac.py", augment={}
)  # the config's defaults are RAD's
SIZE_FACTORS = {"translate": 1.08, "crop": 0.84}  # output size / image size: 100 to 108 and 100 to 84


def make(spec: MethodSpec) -> Method:
    """Returns SAC on RAD's images."""
    return Method(rad_augmentation(spec))


def rad_augmentation(spec: MethodSpec) -> Augmentation:
    """Returns the augmentation of a resolved kind and size (``methods.resolve_augmentation``).

    Raises:
      ConfigError: no augmentation, or a size that does not fit.
    """
    kind, size = spec.augment.kind, spec.augment.size
    makers: dict[str, Callable[[int, int], Augmentation]] = {"translate": random_translate, "crop": random_crop}
    if kind not in makers or size is None:
        raise ConfigError(f"{spec.name} without an augmentation is another method; use --method sac or --base sac")
    try:
        return makers[kind](spec.image_size, size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def random_translate(image_size: int, canvas: int) -> Augmentation:
    """Returns translations of images onto a larger canvas.

    Args:
      image_size: height = width of the images, pixels.
      canvas: height = width of the canvas, pixels.

    Raises:
      ValueError: canvas < image_size.
    """
    margin = canvas - image_size
    if margin < 0:
        raise ValueError(f"translate needs augment.size >= env.image_size, got {canvas} < {image_size}")

    def pair(key: PRNGKeyArray, observation: Images, next_observation: Images) -> Views:
        offsets = augment.random_offsets(key, observation.shape[0], margin)
        translate = partial(augment.translate, offsets=offsets, size=canvas)
        return Views((translate(observation),), (translate(next_observation),))

    def random(key: PRNGKeyArray, images: Images) -> UInt8[Array, "B H2 W2 C"]:
        return augment.translate(images, augment.random_offsets(key, images.shape[0], margin), canvas)

    def center(images: Images) -> UInt8[Array, "B H2 W2 C"]:
        return augment.translate(images, jnp.full((images.shape[0], 2), margin // 2), canvas)

    return Augmentation(pair, center, random)


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
        return augment.crop(images, augment.random_offsets(key, images.shape[0], margin), window)

    def pair(key: PRNGKeyArray, observation: Images, next_observation: Images) -> Views:
        key, next_key = jax.random.split(key)
        return Views((random(key, observation),), (random(next_key, next_observation),))

    def center(images: Images) -> UInt8[Array, "B H2 W2 C"]:
        return augment.crop(images, jnp.full((images.shape[0], 2), margin // 2), window)

    return Augmentation(pair, center, random)
