"""SAC from pixels (Haarnoja et al. 2018; encoder of Yarats et al. 2019): no augmentation."""

from __future__ import annotations

from covr_jax.agents.learner import Augmentation
from covr_jax.types import Array


def _unchanged(key: Array, observation: Array, next_observation: Array) -> tuple[Array, Array]:
    del key
    return observation, next_observation


def no_augmentation() -> Augmentation:
    """Images as they are."""
    return Augmentation(augment=_unchanged, center=lambda images: images)
