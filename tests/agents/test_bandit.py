"""A problem with a known optimum that the learner must solve."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import Method, make_learner
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.config import SACConfig
from covr_jax.types import Batch, Prior
from tests.support.compositions import SIZE, make_batch


@pytest.mark.slow
def test_a_bandit_is_solved():
    """One image, reward 1 - (a - 0.3)^2, every step a termination: the mean action must be 0.3 and Q the reward."""
    config = SACConfig(
        hidden_dim=32,
        feature_dim=8,
        num_filters=4,
        conv_kernels=(3, 3),
        conv_strides=(2, 2),
        alpha_learning_rate=3e-3,
        init_temperature=0.01,
    )
    method = Method(no_augmentation())
    learner = make_learner(1, 3e-3, method, config)
    image = np.broadcast_to(make_batch(method, 0).observation[:1], (32, SIZE, SIZE, 6))
    state = learner.init(jax.random.key(0), image[:1], jnp.zeros((1, 1)))
    update = jax.jit(partial(learner.update, with_actor=True), donate_argnums=0)
    g = np.random.default_rng(0)
    for number in range(400):
        action = g.uniform(-1, 1, (32, 1)).astype(np.float32)
        reward = 1 - (action[:, 0] - 0.3) ** 2
        none = Prior(np.zeros((32, 1), np.float32), np.zeros(32, bool))
        batch = Batch(image, action, reward, np.zeros(32, np.float32), image, none)
        state, metrics = update(state, batch, jax.random.key(number))
    assert abs(float(learner.act(state, image[:1])[0, 0]) - 0.3) < 0.1
    assert float(metrics["losses/critic"]) < 0.02
    assert update._cache_size() == 1
