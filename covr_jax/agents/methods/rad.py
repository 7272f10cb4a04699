"""RAD (Laskin et al. 2020): SAC on randomly placed images; centred ones for acting.

translate: the image lands at one random place of a larger black canvas, the same place for observation and next
observation. crop: two independent random windows. Both as in the authors' settings for DMControl.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from covr_jax.agents import augment
from covr_jax.agents.method import Augmentation, Method, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.config import ConfigError
from covr_jax.types import Array

SETTINGS = PublishedHyperparameters()  # the config's defaults are RAD's
SIZE_FACTORS = {"translate": 1.08, "crop": 0.84}  # output size / image size: 100 to 108 and 100 to 84


def make(request: MethodSpec) -> Method:
    """SAC on RAD's images."""
    return Method(placement(request))


def placement(request: MethodSpec) -> Augmentation:
    """Returns the augmentation of a resolved kind and size (``methods.resolve_augmentation``).

    Raises:
      ConfigError: no augmentation, or a size that does not fit.
    """
    kind, size = request.augment.kind, request.augment.size
    makers: dict[str, Callable[[int, int], Augmentation]] = {"translate": random_translate, "crop": random_crop}
    if kind not in makers or size is None:
        raise ConfigError(f"{request.name} without an augmentation is another method; use --method sac or --base sac")
    try:
        return makers[kind](request.image_size, size)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def random_translate(image_size: int, canvas: int) -> Augmentation:
    """image_size -> canvas, canvas >= image_size; ValueError otherwise."""
    margin = canvas - image_size
    if margin < 0:
        raise ValueError(f"translate needs augment.size >= env.image_size, got {canvas} < {image_size}")

    def both(key: Array, observation: Array, next_observation: Array) -> Views:
        offsets = augment.random_offsets(key, observation.shape[0], margin)
        place = partial(augment.translate, offsets=offsets, size=canvas)
        return Views((place(observation),), (place(next_observation),))

    def random(key: Array, images: Array) -> Array:
        return augment.translate(images, augment.random_offsets(key, images.shape[0], margin), canvas)

    def center(images: Array) -> Array:
        return augment.translate(images, jnp.full((images.shape[0], 2), margin // 2), canvas)

    return Augmentation(both, center, random)


def random_crop(image_size: int, window: int) -> Augmentation:
    """image_size -> window, window <= image_size; ValueError otherwise."""
    margin = image_size - window
    if margin < 0 or window < 1:
        raise ValueError(f"crop needs 1 <= augment.size <= env.image_size, got {window} and {image_size}")

    def random(key: Array, images: Array) -> Array:
        return augment.crop(images, augment.random_offsets(key, images.shape[0], margin), window)

    def both(key: Array, observation: Array, next_observation: Array) -> Views:
        key, next_key = jax.random.split(key)
        return Views((random(key, observation),), (random(next_key, next_observation),))

    def center(images: Array) -> Array:
        return augment.crop(images, jnp.full((images.shape[0], 2), margin // 2), window)

    return Augmentation(both, center, random)
