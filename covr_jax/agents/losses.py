"""Soft actor-critic (Haarnoja et al. 2018), one function per equation. Letters: B batch, A action.

Log probabilities are natural logarithms of the density of the squashed action; every loss is a mean over the batch.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

_LOG_2PI = 1.8378770664093453


def squashed_sample(
    key: PRNGKeyArray, mean: Float[Array | np.ndarray, "B A"], log_std: Float[Array | np.ndarray, "B A"]
) -> tuple[Float[Array, "B A"], Float[Array, " B"]]:
    """Samples a = tanh(u), u = mean + sigma * noise, with log pi(a|s) = log N(u) - sum log(1 - tanh(u)^2).

    Args:
      key: PRNG key, consumed.
      mean: mean of u, before the tanh.
      log_std: log sigma, natural logarithm.

    Returns:
      The action in [-1, 1] and its log probability in nats.
    """
    noise = jax.random.normal(key, mean.shape, mean.dtype)
    pre_tanh: Array = mean + jnp.exp(log_std) * noise  # pyright: ignore[reportAssignmentType]
    action = jnp.tanh(pre_tanh)
    gaussian = jnp.sum(-0.5 * noise**2 - log_std - 0.5 * _LOG_2PI, axis=-1)
    return action, gaussian - jnp.sum(squash_log_det(pre_tanh), axis=-1)


def squash_log_det(pre_tanh: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Returns log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)), elementwise; exact where tanh saturates."""
    return 2.0 * (jnp.log(2.0) - pre_tanh - jax.nn.softplus(-2.0 * pre_tanh))


def soft_target(
    reward: Float[Array | np.ndarray, " B"],
    discount: Float[Array | np.ndarray, " B"],
    next_q: Float[Array, "2 B"],
    next_log_prob: Float[Array, " B"],
    alpha: Float[Array, ""],
    gamma: float,
) -> Float[Array, " B"]:
    """Returns y = r + gamma d (min_i Qbar_i(s', a') - alpha log pi(a'|s')), a constant for gradients.

    Args:
      reward: r.
      discount: d, 0 only on termination.
      next_q: both target critics' values of the next observation and action.
      next_log_prob: log pi(a'|s'), nats.
      alpha: temperature.
      gamma: discount factor of the algorithm.
    """
    value = jnp.min(next_q, axis=0) - alpha * next_log_prob
    return jax.lax.stop_gradient(reward + gamma * discount * value)  # pyright: ignore[reportReturnType]


def critic_loss(
    q: Float[Array, "2 B"], target: Float[Array, " B"], weight: Float[Array | np.ndarray, " B"] | None = None
) -> Float[Array, ""]:
    """Returns L_Q = sum_i mean_b w_b (Q_i(s,a) - y)^2.

    Args:
      q: both critics' values.
      target: y.
      weight: importance weights w; None means 1.
    """
    error = (q - target[None]) ** 2
    return jnp.sum(jnp.mean(error if weight is None else weight[None] * error, axis=1))


def actor_loss(q: Float[Array, "2 B"], log_prob: Float[Array, " B"], alpha: Float[Array, ""]) -> Float[Array, ""]:
    """Returns L_pi = mean_b (alpha log pi(a|s) - min_i Q_i(s,a)), with a reparameterised and alpha a constant."""
    return jnp.mean(jax.lax.stop_gradient(alpha) * log_prob - jnp.min(q, axis=0))


def alpha_loss(log_alpha: Float[Array, ""], log_prob: Float[Array, " B"], target_entropy: float) -> Float[Array, ""]:
    """Returns L_alpha = alpha * mean_b (-log pi(a|s) - target_entropy), with a gradient in log alpha only."""
    return jnp.exp(log_alpha) * jnp.mean(jax.lax.stop_gradient(-log_prob - target_entropy))
