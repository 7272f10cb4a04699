"""Soft actor-critic (Haarnoja et al. 2018), one function per equation. Letters: B batch, A action.

log_prob is natural-log density of the squashed action; every loss is a mean over the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from covr_jax.types import Array

_LOG_2PI = 1.8378770664093453


def squashed_sample(key: Array, mean: Array, log_std: Array) -> tuple[Array, Array]:
    """A = tanh(mean + sigma * noise) and log pi(a|s) = log N(u) - sum log(1 - tanh(u)^2), u before the tanh.

    Args:
      key: consumed. mean, log_std: f32[B,A].

    Returns:
      action f32[B,A] in [-1,1], log_prob f32[B].
    """
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    pre_tanh = mean + jnp.exp(log_std) * noise
    action = jnp.tanh(pre_tanh)
    gaussian = jnp.sum(-0.5 * noise**2 - log_std - 0.5 * _LOG_2PI, axis=-1)
    return action, gaussian - jnp.sum(squash_log_det(pre_tanh), axis=-1)


def squash_log_det(pre_tanh: Array) -> Array:
    """log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), elementwise; exact where tanh saturates."""
    return 2.0 * (jnp.log(2.0) - pre_tanh - jax.nn.softplus(-2.0 * pre_tanh))


def soft_target(
    reward: Array, discount: Array, next_q: Array, next_log_prob: Array, alpha: Array, gamma: float
) -> Array:
    """Y = r + gamma d (min_i Qbar_i(s', a') - alpha log pi(a'|s')), f32[B]; next_q f32[2,B]. Constant for gradients."""
    value = jnp.min(next_q, axis=0) - alpha * next_log_prob
    return jax.lax.stop_gradient(reward + gamma * discount * value)


def critic_loss(q: Array, target: Array, weight: Array | None = None) -> Array:
    """L_Q = sum_i mean_b w_b (Q_i(s,a) - y)^2; q f32[2,B], target f32[B], weight f32[B] (None: 1)."""
    error = (q - target[None]) ** 2
    return jnp.sum(jnp.mean(error if weight is None else weight[None] * error, axis=1))


def actor_loss(q: Array, log_prob: Array, alpha: Array) -> Array:
    """L_pi = mean_b (alpha log pi(a|s) - min_i Q_i(s,a)); q f32[2,B], a reparameterised."""
    return jnp.mean(jax.lax.stop_gradient(alpha) * log_prob - jnp.min(q, axis=0))


def alpha_loss(log_alpha: Array, log_prob: Array, target_entropy: float) -> Array:
    """L_alpha = alpha * mean_b (-log pi(a|s) - target_entropy), gradient in log alpha only."""
    return jnp.exp(log_alpha) * jnp.mean(jax.lax.stop_gradient(-log_prob - target_entropy))
