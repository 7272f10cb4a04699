"""SVEA (Hansen, Su and Wang 2021): targets from shifted images, critics fitted to strongly augmented ones too.

L_Q = alpha L(s) + beta L(aug(s)) with alpha = beta = 0.5 and y from s' alone; the actor learns from s. aug is a random
convolution, whose result is rounded to bytes. The ``paper`` preset has the authors' encoder of eleven layers; smaller
presets keep their own. Difference from the authors' code: a ReLU after the last convolution too.
"""

from __future__ import annotations

from functools import partial

import jax
from jaxtyping import Array

from covr_jax.agents import augment
from covr_jax.agents.method import Augmentation, Method, Views
from covr_jax.agents.methods.drq import random_shifts
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.networks import make_networks


def _with_strong_view(shifts: Augmentation) -> Augmentation:
    def views(key: Array, observation: Array, next_observation: Array) -> Views:
        shift_key, strong_key = jax.random.split(key)
        mild = shifts.augment(shift_key, observation, next_observation)
        return Views((*mild.observation, augment.random_conv(strong_key, mild.observation[0])), mild.next_observation)

    return shifts._replace(augment=views)


def make(spec: MethodSpec) -> Method:
    """Returns SAC with a second, strongly augmented view in the critic loss."""
    spec.refuse_other_augmentation()
    return Method(
        _with_strong_view(random_shifts(spec.image_size)),
        networks=partial(make_networks, squash=True),
        view_weights=(0.5, 0.5),
    )
