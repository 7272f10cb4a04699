"""Generalised advantage estimation for the VLM as policy (VPF). No Torch here. Letters: T time, E envs."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gae(
    reward: jax.Array, ends: jax.Array, discount: jax.Array, value: jax.Array, gamma: float, decay: float
) -> tuple[jax.Array, jax.Array]:
    """A_t = delta_t + gamma decay A_{t+1}, delta_t = r_{t+1} + gamma d_{t+1} V(o_{t+1}) - V(o_t), cut at episode ends.

    An episode that a time limit ends is worth V of its last observation (d = 1 there); one that terminates is not.

    Args:
      reward: f32[T,E], r_{t+1}, which follows the action at t.
      ends: bool[T,E], whether the time step t+1 is its episode's last.
      discount: f32[T,E], d_{t+1}: 0 where the episode terminated, else 1.
      value: f32[T+1,E], V(o_t).
      gamma: discount in [0, 1]. decay: lambda in [0, 1].

    Returns:
      advantage f32[T,E] and the value's targets, advantage + V(o_t), f32[T,E].
    """
    reward, discount, value = (jnp.asarray(x, jnp.float32) for x in (reward, discount, value))
    goes_on = jnp.where(jnp.asarray(ends), 0.0, 1.0)
    delta = reward + gamma * discount * value[1:] - value[:-1]

    def backwards(later, now):
        one_step, trace = now
        advantage = one_step + gamma * decay * trace * later
        return advantage, advantage

    start = jnp.zeros(reward.shape[1:], jnp.float32)
    _, advantage = jax.lax.scan(backwards, start, (delta, goes_on * discount), reverse=True)
    return advantage, advantage + value[:-1]
