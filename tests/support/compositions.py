"""Every method at a size that compiles in seconds, with random batches. B batch, A action, K steps."""

from __future__ import annotations

import dataclasses
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.agents import METHODS, Learner, Method, make_learner, make_method
from covr_jax.agents.methods import of_group, published_hyperparameters
from covr_jax.config import AugmentConfig, SACConfig
from covr_jax.types import Batch, Future, Maps, Prior

B, SIZE, STACK, A = 16, 12, 2, 2
RATE = 2e-3
CONFIG = SACConfig(
    hidden_dim=32,
    feature_dim=12,
    num_filters=6,
    conv_kernels=(4, 3),
    conv_strides=(2, 1),
    auxiliary_learning_rate=1e-3,
    alpha_learning_rate=5e-3,
    discount=0.5,
    target_period=3,
)
NAMES = METHODS
HASTE = 5.0  # factor on the published target rates, or the probes would take minutes


class Composition(NamedTuple):
    """A method, its learner and its compiled functions; ``update`` includes the actor."""

    method: Method
    config: SACConfig
    learner: Learner
    update: Any
    act: Any

    def start(self, seed: int = 0) -> Any:
        image = np.zeros((1, SIZE, SIZE, channels(self.method)), np.uint8)
        state = self.learner.init(jax.random.key(seed), image, jnp.zeros((1, A)))
        return state.replace(exploration_noise=jnp.asarray(0.2, jnp.float32))


def channels(method: Method) -> int:
    return 3 * (STACK + method.history)


def compose(method: Method, config: SACConfig) -> Composition:
    learner = make_learner(A, RATE, method, config)
    return Composition(method, config, learner, jax.jit(partial(learner.update, with_actor=True)), jax.jit(learner.act))


@cache
def composition(name: str) -> Composition:
    """Returns a method with its published hyperparameters except for sizes and speeds."""
    published = published_hyperparameters(name)
    targets = {name: value for name, value in of_group(published.full_size, "sac").items() if name.endswith("_tau")}
    config = dataclasses.replace(CONFIG, **of_group(published.always, "sac"), **targets)
    config = dataclasses.replace(config, critic_tau=HASTE * config.critic_tau, encoder_tau=HASTE * config.encoder_tau)
    augment = AugmentConfig(**of_group(published.always, "augment"))
    return compose(make_method(name, augment, SIZE, "translate"), config)


def make_batch(method: Method, seed: int, batch: int = B) -> Batch:
    """Returns a random batch with all fields that the method reads."""
    g = np.random.default_rng(seed)
    shape = (batch, SIZE, SIZE, channels(method))

    def actions(*lead: int) -> np.ndarray:
        return g.uniform(-1, 1, (*lead, batch, A)).astype(np.float32)

    def images(*lead: int) -> np.ndarray:
        return g.integers(0, 256, (*lead, *shape), dtype=np.uint8)

    def ends(steps: int) -> dict[str, np.ndarray]:
        reached = np.arange(steps)[:, None] < g.integers(1, steps + 1, batch)
        return {"discount": (g.random((steps, batch)) > 0.3).astype(np.float32), "reached": reached}

    return Batch(
        observation=images(),
        action=actions(),
        reward=g.uniform(0, 8, batch).astype(np.float32),
        discount=(g.random(batch) > 0.3).astype(np.float32),
        next_observation=images(),
        prior=Prior(actions(), g.random(batch) > 0.4),
        previous_action=actions() if method.residual else None,
        future=None
        if not method.horizon
        else Future(
            action=actions(method.horizon),
            reward=g.uniform(0, 2, (method.horizon, batch)).astype(np.float32),
            observation=images(method.horizon),
            valid=g.random(batch) > 0.3,
            **(ends(method.horizon) if method.objective.scales_rewards else {}),
        ),
        maps=None
        if not method.map_side
        else Maps(g.random((batch, method.map_side**2), np.float32), g.random(batch) > 0.4),
        reward_scale=np.float32(g.uniform(0.5, 2)) if method.objective.scales_rewards else None,
    )
