"""RAD's update in JAX as one writes it first: the learner's benchmark measures our tuning against it.

The same mathematics on the same parameter tree as ``covr_jax.agents``, but bytes become floats in [0, 1] before the
network, every network makes its own pass over the images, and ``jax.jit`` compiles with its default options.
Letters: B batch, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from covr_jax.agents import Augmentation, LearnerState
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch


class NaiveRAD:
    """``update(state, batch, key, with_actor) -> state``; state as ``covr_jax.agents`` makes it."""

    def __init__(self, config: SACConfig, augmentation: Augmentation, learning_rate: float, dtype: Any = jnp.float32):
        self.config, self.augmentation, self.dtype = config, augmentation, dtype
        self.optimiser = optax.adam(learning_rate)
        self.alpha_optimiser = optax.adam(config.alpha_learning_rate, b1=config.alpha_beta1)
        self.jitted: dict[bool, Callable[..., LearnerState]] = {
            with_actor: jax.jit(partial(self.update, with_actor=with_actor)) for with_actor in (False, True)
        }

    # ---------------------------------------------------------------- networks

    def _torso(self, params: Any, images: Array) -> Array:
        x = images.astype(self.dtype) / 255
        for index, stride in enumerate(self.config.conv_strides):
            layer = jax.tree.map(lambda leaf: leaf.astype(self.dtype), params[f"conv_{index}"])
            strides, order = (stride, stride), ("NHWC", "HWIO", "NHWC")
            x = jax.lax.conv_general_dilated(x, layer["kernel"], strides, "VALID", dimension_numbers=order)
            x = jax.nn.relu(x + layer["bias"][None, None, None])
        return x.reshape(len(x), -1)

    def _dense(self, layer: Any, x: Array) -> Array:
        return x.astype(self.dtype) @ layer["kernel"].astype(self.dtype) + layer["bias"].astype(self.dtype)[None]

    def _encode(self, params: Any, torso: Any, images: Array) -> Array:
        x = self._dense(params["linear"], self._torso(torso, images)).astype(jnp.float32)
        x = (x - x.mean(-1, keepdims=True)) / jnp.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * params["norm"]["scale"][None] + params["norm"]["bias"][None]

    def _mlp(self, params: Any, x: Array) -> Array:
        for index in range(2):
            x = jax.nn.relu(self._dense(params[f"Dense_{index}"], x))
        return self._dense(params["Dense_2"], x).astype(jnp.float32)

    def _q(self, params: Any, torso: Any, images: Array, action: Array) -> Array:
        x = jnp.concatenate([self._encode(params["encoder"], torso, images), action], -1)
        heads = [jax.tree.map(lambda leaf, i=i: leaf[i], params["heads"]) for i in range(2)]
        return jnp.stack([self._mlp(head, x)[:, 0] for head in heads])

    def _sample(self, params: Any, torso: Any, images: Array, key: Array) -> tuple[Array, Array]:
        mean, log_std = jnp.split(self._mlp(params["head"], self._encode(params["encoder"], torso, images)), 2, -1)
        low, high = self.config.log_std_min, self.config.log_std_max
        log_std = low + 0.5 * (high - low) * (jnp.tanh(log_std) + 1)
        noise = jax.random.normal(key, mean.shape)
        pre_tanh = mean + jnp.exp(log_std) * noise
        log_prob = (-0.5 * noise**2 - log_std - 0.5 * jnp.log(2 * jnp.pi)).sum(-1)
        log_det = 2 * (jnp.log(2.0) - pre_tanh - jax.nn.softplus(-2 * pre_tanh)).sum(-1)
        return jnp.tanh(pre_tanh), log_prob - log_det

    # ------------------------------------------------------------------ update

    def update(self, state: LearnerState, batch: Batch, key: Array, *, with_actor: bool) -> LearnerState:
        """One update from the same draws as ``covr_jax``'s with the same key."""
        augment_key, critic_key, actor_key = jax.random.split(key, 3)
        views = self.augmentation.augment(augment_key, batch.observation, batch.next_observation)
        batch = batch._replace(observation=views.observation[0], next_observation=views.next_observation[0])
        state = self._critic(state, batch, critic_key)
        return self._targets(self._actor(state, batch, actor_key)) if with_actor else state

    def _critic(self, state: LearnerState, batch: Batch, key: Array) -> LearnerState:
        params, target, images = state.params, state.target, batch.next_observation
        action, log_prob = self._sample(params["actor"], params["torso"], images, key)
        next_q = self._q(target["critic"], target["torso"], images, action)
        value = next_q.min(0) - jnp.exp(state.log_alpha) * log_prob
        y = batch.reward + self.config.discount * batch.discount * value

        def loss(trained: Any) -> Array:
            q = self._q(trained["critic"], trained["torso"], batch.observation, batch.action)
            return ((q - y[None]) ** 2).mean(1).sum()

        trained = {"torso": params["torso"], "critic": params["critic"]}
        updates, critic_opt = self.optimiser.update(jax.grad(loss)(trained), state.critic_opt)
        return state.replace(params=params | optax.apply_updates(trained, updates), critic_opt=critic_opt)  # pyright: ignore[reportOperatorIssue]

    def _actor(self, state: LearnerState, batch: Batch, key: Array) -> LearnerState:
        params, alpha = state.params, jnp.exp(state.log_alpha)

        def loss(actor: Any) -> tuple[Array, Array]:
            action, log_prob = self._sample(actor, params["torso"], batch.observation, key)
            q = self._q(params["critic"], params["torso"], batch.observation, action)
            return (alpha * log_prob - q.min(0)).mean(), log_prob.mean()

        grads, log_prob = jax.grad(loss, has_aux=True)(params["actor"])
        updates, actor_opt = self.optimiser.update(grads, state.actor_opt)
        params = params | {"actor": optax.apply_updates(params["actor"], updates)}
        entropy_gap = -log_prob + batch.action.shape[-1]  # entropy minus its target of -A
        step, alpha_opt = self.alpha_optimiser.update(alpha * entropy_gap, state.alpha_opt)
        log_alpha = optax.apply_updates(state.log_alpha, step)
        return state.replace(params=params, actor_opt=actor_opt, log_alpha=log_alpha, alpha_opt=alpha_opt)

    def _targets(self, state: LearnerState) -> LearnerState:
        config = self.config

        def move(path: Any, old: Array, new: Array) -> Array:
            tau = config.critic_tau if any(key.key == "heads" for key in path) else config.encoder_tau
            return (1 - tau) * old + tau * new

        online = {name: state.params[name] for name in state.target}
        return state.replace(target=jax.tree_util.tree_map_with_path(move, state.target, online))
