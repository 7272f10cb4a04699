"""RAD (Laskin et al. 2020): SAC on randomly placed images; centred ones for acting.

translate: the image lands at one random place of a larger black canvas, the same place for observation and next
observation. crop: two independent random windows. Both as in the authors' settings for DMControl.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from covr_jax import augment
from covr_jax.agents.learner import Augmentation
from covr_jax.types import Array


def random_translate(image_size: int, canvas: int) -> Augmentation:
    """image_size -> canvas, canvas >= image_size; ValueError otherwise."""
    margin = canvas - image_size
    if margin < 0:
        raise ValueError(f"translate needs augment.size >= env.image_size, got {canvas} < {image_size}")

    def both(key: Array, observation: Array, next_observation: Array) -> tuple[Array, Array]:
        offsets = augment.random_offsets(key, observation.shape[0], margin)
        return augment.translate(observation, offsets, canvas), augment.translate(next_observation, offsets, canvas)

    def center(images: Array) -> Array:
        return augment.translate(images, jnp.full((images.shape[0], 2), margin // 2), canvas)

    return Augmentation(both, center)


def random_crop(image_size: int, window: int) -> Augmentation:
    """image_size -> window, window <= image_size; ValueError otherwise."""
    margin = image_size - window
    if margin < 0 or window < 1:
        raise ValueError(f"crop needs 1 <= augment.size <= env.image_size, got {window} and {image_size}")

    def both(key: Array, observation: Array, next_observation: Array) -> tuple[Array, Array]:
        key, next_key = jax.random.split(key)
        offsets = augment.random_offsets(key, observation.shape[0], margin)
        next_offsets = augment.random_offsets(next_key, observation.shape[0], margin)
        return augment.crop(observation, offsets, window), augment.crop(next_observation, next_offsets, window)

    def center(images: Array) -> Array:
        return augment.crop(images, jnp.full((images.shape[0], 2), margin // 2), window)

    return Augmentation(both, center)
