"""SAC from pixels without augmentation (Haarnoja et al. 2018).

The encoder is that of Yarats et al. 2019 without its last tanh, as in CURL.
"""

from __future__ import annotations

from jaxtyping import Array

from covr_jax.agents.method import Augmentation, Method, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec


def no_augmentation() -> Augmentation:
    """Returns the identity."""

    def augment(key: Array, observation: Array, next_observation: Array) -> Views:
        del key
        return Views((observation,), (next_observation,))

    return Augmentation(augment=augment, center=lambda images: images, random=lambda key, images: images)


def make(spec: MethodSpec) -> Method:
    """Returns plain soft actor-critic."""
    spec.refuse_augmentation()
    return Method(no_augmentation())
