"""g_t of COVR's fine-tuning buffer D_f. Letters: T time, E envs."""

from __future__ import annotations

import numbers

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

MID, LAST = 1, 2  # dm_env's step types; FIRST is 0


def _check_discount(discount: float) -> None:
    # A traced discount has no value yet, so only a plain number can be refused.
    if isinstance(discount, numbers.Real) and not 0.0 <= discount <= 1.0:
        raise ValueError(f"discount must lie in [0, 1], got {discount}")


def returns_to_go(reward: ArrayLike, discount: float) -> jax.Array:
    """g_t = sum_{k=t}^{T-1} discount^(k-t) r_k: the return that COVR stores with a sample, of one whole episode.

    Args:
      reward: f32[T, ...], r_t follows the action taken at t; trailing axes are independent episodes.
      discount: gamma in [0, 1], constant over the episode.

    Returns:
      f32[T, ...].

    Raises:
      ValueError: discount outside [0, 1], or a reward without a time axis.
    """
    _check_discount(discount)
    reward = jnp.asarray(reward, jnp.float32)
    if reward.ndim == 0:
        raise ValueError("reward needs a leading time axis, got a scalar")

    def backwards(g, r):
        g = r + discount * g
        return g, g

    _, g = jax.lax.scan(backwards, jnp.zeros(reward.shape[1:], jnp.float32), reward, reverse=True)
    return g


def episode_returns(
    reward: ArrayLike, step_type: ArrayLike, discount: float, *, last_value: ArrayLike | None = None
) -> tuple[jax.Array, jax.Array]:
    """g_t = sum_k discount^k r_{t+1+k}, up to and including LAST: D_f as read out of a window of the replay.

    The replay stores r with the time step it arrived with, so the action taken at t is paid from t+1 on. A time step
    has no return while its episode is still running when the window ends: the paper's g_t needs the terminal step,
    so such samples wait for the next round. LAST takes no action and has none either. A window may open in the
    middle of an episode.

    Args:
      reward: f32[T,E], what arrived with each time step.
      step_type: i[T,E], 0 FIRST, 1 MID, 2 LAST.
      discount: gamma in [0, 1].
      last_value: f32[T,E] or None. The literal definition stops at LAST, which under-scores the end of an episode
        that a time limit cut. Given V(o_t), the value at LAST is bootstrapped instead; put 0 on real terminations.

    Returns:
      returns f32[T,E], 0 where not complete; complete bool[T,E].

    Raises:
      ValueError: discount outside [0, 1], or shapes that differ.
    """
    _check_discount(discount)
    reward, step_type = jnp.asarray(reward, jnp.float32), jnp.asarray(step_type)
    value_at_last: jax.Array = jnp.zeros_like(reward) if last_value is None else jnp.asarray(last_value, jnp.float32)
    if reward.ndim != 2 or not reward.shape == step_type.shape == value_at_last.shape:
        raise ValueError(
            f"reward, step_type and last_value must share one shape [T,E],"
            f" got {reward.shape}, {step_type.shape}, {value_at_last.shape}"
        )

    def backwards(after, now):
        g_next, known_next = after  # return of the action that led to the next time step, and whether it is known
        r, kind, value = now
        last = kind == LAST
        complete = known_next & ~last
        g = jnp.where(complete, g_next, 0.0)
        # The return of the action that led to this time step. Nothing propagates across FIRST: a new episode starts.
        g_before = r + discount * jnp.where(last, value, g)
        known = last | (complete & (kind == MID))
        return (g_before, known), (g, complete)

    envs = reward.shape[1:]
    running = (jnp.zeros(envs, jnp.float32), jnp.zeros(envs, bool))
    _, (returns, complete) = jax.lax.scan(backwards, running, (reward, step_type, value_at_last), reverse=True)
    return returns, complete
