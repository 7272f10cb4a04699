"""SAC from pixels without augmentation (Haarnoja et al. 2018).

The encoder is that of Yarats et al. 2019 without its last tanh, as CURL has it.
"""

from __future__ import annotations

from covr_jax.agents.method import Augmentation, Method, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.types import Array

SETTINGS = PublishedHyperparameters(env={"image_size": 84})


def no_augmentation() -> Augmentation:
    """Images as they are."""

    def augment(key: Array, observation: Array, next_observation: Array) -> Views:
        del key
        return Views((observation,), (next_observation,))

    return Augmentation(augment=augment, center=lambda images: images, random=lambda key, images: images)


def make(request: MethodSpec) -> Method:
    """Soft actor-critic and nothing else."""
    request.refuse_augmentation()
    return Method(no_augmentation())
