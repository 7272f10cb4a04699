"""DrQ (Kostrikov et al. 2020): targets and losses averaged over random shifts of the same images.

y = 1/M sum_m (r + gamma V(f(s', nu'_m))) and L = sum_k mean_b (Q(f(s, nu_k), a) - y)^2 with K = M = 2 shifts nu; the
actor learns from the first of s. The encoder ends in a tanh.
Differences from the paper: both Q losses are summed over the shifts, as in the authors' code, where the paper writes a
mean; convolutions are initialised delta-orthogonal, as in SAC-AE.
Letters: B batch, H W image, C channels.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray, UInt8

from covr_jax.agents import augment
from covr_jax.agents.method import Augmentation, Method, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.networks import make_networks

MARGIN = 4  # pixels of an 84x84 image


def margin_for(image_size: int) -> int:
    """Returns the published margin, scaled to the image size and at least one pixel."""
    return max(round(MARGIN * image_size / 84), 1)


def random_shifts(image_size: int, copies: int = 1) -> Augmentation:
    """Returns ``copies`` independent shifts of the observation and as many of the next observation."""
    margin = margin_for(image_size)

    def random(key: PRNGKeyArray, images: UInt8[Array | np.ndarray, "B H W C"]) -> UInt8[Array, "B H W C"]:
        return augment.shift(images, augment.random_offsets(key, images.shape[0], 2 * margin), margin)

    def views(key: Array, observation: Array, next_observation: Array) -> Views:
        keys = jax.random.split(key, 2 * copies)
        return Views(
            tuple(random(key, observation) for key in keys[:copies]),
            tuple(random(key, next_observation) for key in keys[copies:]),
        )

    return Augmentation(views, center=lambda images: jnp.asarray(images), random=random)


def make(spec: MethodSpec) -> Method:
    """Returns SAC averaged over two shifts."""
    spec.refuse_other_augmentation()
    return Method(
        random_shifts(spec.image_size, copies=2),
        networks=partial(make_networks, squash=True),
        view_weights=(1.0, 1.0),
    )
