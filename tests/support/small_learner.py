"""Learners of all methods with small networks and a stack of three frames. A action."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.agents import make_learner, make_method
from covr_jax.config import AugmentConfig, SACConfig
from covr_jax.types import Batch, Future, Prior

SIZE, A = 12, 2
CONFIG = SACConfig(hidden_dim=8, feature_dim=5, num_filters=3, conv_kernels=(4, 3), conv_strides=(2, 1))


def method_of(name):
    return make_method(name, AugmentConfig(), SIZE, "translate")


def make(name):
    return make_learner(A, 1e-3, method_of(name), CONFIG)


def make_batch(seed, batch=8, name="rad"):
    """Returns a random batch with all fields that the method reads."""
    g, method = np.random.default_rng(seed), method_of(name)
    shape = (batch, SIZE, SIZE, 9 + 3 * method.history)
    images = g.integers(0, 256, (2, *shape), dtype=np.uint8)
    action, reward = g.uniform(-1, 1, (batch, A)).astype(np.float32), g.uniform(0, 1, batch).astype(np.float32)
    prior = Prior(action, np.zeros(batch, bool))
    result = Batch(images[0], action, reward, np.ones(batch, np.float32), images[1], prior)
    if method.residual:
        result = result._replace(previous_action=g.uniform(-1, 1, (batch, A)).astype(np.float32))
    if method.horizon:
        actions = g.uniform(-1, 1, (method.horizon, batch, A)).astype(np.float32)
        rewards = g.uniform(0, 1, (method.horizon, batch)).astype(np.float32)
        observations = g.integers(0, 256, (method.horizon, *shape), dtype=np.uint8)
        result = result._replace(future=Future(actions, rewards, observations, g.random(batch) > 0.3))
    return result


def start(learner, seed, name="rad"):
    image = jnp.zeros((1, SIZE, SIZE, 9 + 3 * method_of(name).history), jnp.uint8)
    return learner.init(jax.random.key(seed), image, jnp.zeros((1, A)))
