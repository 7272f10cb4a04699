"""SVEA (Hansen, Su and Wang 2021): targets from mildly shifted images, critics fitted to strongly changed ones too.

L_Q = alpha L(s) + beta L(aug(s)) with alpha = beta = 0.5 and y from s' alone; the actor learns from s. aug is a random
convolution, whose result we round to bytes. The authors' encoder of eleven layers is the ``paper`` preset's; smaller
presets keep theirs. Ours: a rectifier after the last of its convolutions too.
"""

from __future__ import annotations

from functools import partial

import jax

from covr_jax.agents import augment
from covr_jax.agents.method import Augmentation, Method, Views
from covr_jax.agents.methods.drq import random_shifts
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.networks import make_networks
from covr_jax.types import Array

SETTINGS = PublishedHyperparameters(
    env={"image_size": 84},
    sac={
        "learning_rate": 1e-3,
        "feature_dim": 100,
        "conv_kernels": (3,) * 11,
        "conv_strides": (2, *(1,) * 10),
    },
)


def _with_strong_view(shifts: Augmentation) -> Augmentation:
    def views(key: Array, observation: Array, next_observation: Array) -> Views:
        shift_key, strong_key = jax.random.split(key)
        mild = shifts.augment(shift_key, observation, next_observation)
        return Views((*mild.observation, augment.random_conv(strong_key, mild.observation[0])), mild.next_observation)

    return shifts._replace(augment=views)


def make(request: MethodSpec) -> Method:
    """SAC with a second, strongly augmented view in the critic loss."""
    request.refuse_other_augmentation()
    return Method(
        _with_strong_view(random_shifts(request.image_size)),
        networks=partial(make_networks, squash=True),
        view_weights=(0.5, 0.5),
    )
