"""Which frames of a chunk the VLM is asked about, and where its answers belong.

Candidates are the frames of every ``vlm.every``-th step of the newest chunk in all lanes, by time and then by lane.
N candidates, K of them asked about, E envs, H W image, C = 3 channels for each of ``vlm.frames`` frames, A action.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.types import Array, Prior


class Query(NamedTuple):
    """What the VLM is asked about one chunk."""

    frames: Array  # u8[K,H,W,C]
    place: Array  # i32[K], which candidates they are, rising


def seen(observation: Array, frames: int) -> Array:
    """What the VLM sees of observations u8[...,3*stack]: the newest frames, u8[...,C], the oldest of them first."""
    return observation[..., -3 * frames :]


def candidates(end: Array, steps: int, every: int, lanes: int) -> tuple[Array, Array]:
    """Times and lanes, i32[N] each, of the candidates among the ``steps`` slots before time ``end``."""
    times = end - steps + jnp.arange(0, steps, every)
    return jnp.repeat(times, lanes), jnp.tile(jnp.arange(lanes), len(times))


def num_queries(total: int, share: float) -> int:
    """K: the share of N, rounded, but one at least."""
    return max(1, round(share * total))


def top_k_entropy(entropy: Array, acts: Array, count: int) -> Array:
    """The ``count`` candidates of highest policy entropy, i32[K], rising; of equal ones the earlier.

    Args:
      entropy: f32[N], nats.
      acts: bool[N]: False where the action is ignored; those come after all others.
    """
    _, place = jax.lax.top_k(jnp.where(acts, entropy, -jnp.inf), count)
    return jnp.sort(place)


def scatter_priors(prior: Prior, place: Array, lanes: int, total: int) -> Prior:
    """Answers (action f32[K,A], valid bool[K]) at their places among N candidates, on the host.

    Returns:
      action f32[N/E,E,A], valid bool[N/E,E]; 0 and False where nothing was asked.
    """
    action = np.zeros((total, prior.action.shape[-1]), np.float32)
    valid = np.zeros(total, bool)
    index = np.asarray(place)
    action[index], valid[index] = np.asarray(prior.action), np.asarray(prior.valid)
    return Prior(action.reshape(-1, lanes, action.shape[-1]), valid.reshape(-1, lanes))
