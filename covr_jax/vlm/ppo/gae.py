"""Generalised advantage estimation for the VLM as policy (VPF). No Torch. T time, E envs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covr_jax.checks import check_shape


def gae(
    reward: Float[Array | np.ndarray, "T E"],
    ends: Bool[Array | np.ndarray, "T E"],
    discount: Float[Array | np.ndarray, "T E"],
    value: Float[Array | np.ndarray, "T+1 E"],
    gamma: float,
    decay: float,
) -> tuple[Float[Array, "T E"], Float[Array, "T E"]]:
    """Computes advantages and value targets.

    A_t = delta_t + gamma lambda A_{t+1}, delta_t = r_{t+1} + gamma d_{t+1} V(o_{t+1}) - V(o_t); the sum stops at the
    end of an episode. An episode that a time limit ends is worth V of its last observation (d = 1 there); one that
    terminates is not.

    Args:
      reward: r_{t+1}, the reward that follows the action at t.
      ends: whether the time step t+1 is the last one of its episode.
      discount: d_{t+1}, 0 where the episode terminated, else 1.
      value: V(o_t).
      gamma: discount in [0, 1].
      decay: lambda in [0, 1].

    Returns:
      advantages, and the targets of the value: advantage + V(o_t).

    Raises:
      ValueError: shapes that do not match, or gamma or decay outside of [0, 1].
    """
    reward, discount, value = (jnp.asarray(x, jnp.float32) for x in (reward, discount, value))
    for name, array in (("ends", ends), ("discount", discount), ("value", value[:-1])):
        check_shape(name, array, reward.shape)
    if not (0.0 <= gamma <= 1.0 and 0.0 <= decay <= 1.0):
        raise ValueError(f"gamma and decay must lie in [0, 1], got {gamma} and {decay}")
    continues = jnp.where(jnp.asarray(ends), 0.0, 1.0)
    delta = reward + gamma * discount * value[1:] - value[:-1]

    def step(next_advantage, inputs):
        delta, trace = inputs
        advantage = delta + gamma * decay * trace * next_advantage
        return advantage, advantage

    start = jnp.zeros(reward.shape[1:], jnp.float32)
    _, advantage = jax.lax.scan(step, start, (delta, continues * discount), reverse=True)
    return advantage, advantage + value[:-1]
