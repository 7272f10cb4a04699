"""Return-aware loss weights, w_b of COVR's Eq. 6. Letters: N samples that the filter kept."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from .eddf import vector

KINDS = ("minmax", "maxabs", "rank")


def normalize_returns(returns: ArrayLike, kind: str = "minmax") -> jax.Array:
    """Gbar = 2 (g - min) / (max - min) - 1, the kept returns brought to [-1, 1].

    Min-max is the literal reading of the text; it sends everything under the mid-range below zero. ``maxabs`` is
    g / max|g|, which keeps signs, so that tasks without negative rewards lose no sample. ``rank`` is 2 r / (N - 1) - 1
    with r the number of smaller returns plus half of the number of other equal ones: one outlier does not take the
    weight of all others, and half of the samples keep some.

    Args:
      returns: f32[N], finite, only those that the filter kept.
      kind: ``minmax``, ``maxabs`` or ``rank``.

    Returns:
      f32[N] in [-1, 1]; ones where all returns are equal, which then count alike.

    Raises:
      ValueError: unknown kind, or returns that are no vector or, outside of compiled programs, not finite.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown normalisation {kind!r}, expected one of {', '.join(KINDS)}")
    returns = vector(returns)
    if returns.size == 0:
        return returns
    if kind == "rank":
        return jnp.where(returns.max() > returns.min(), _ranks(returns), 1.0)
    eighth = 0.125 * returns  # max - min may pass the largest float, and 1 / span is flushed to 0 above 2^126
    low, span = eighth.min(), eighth.max() - eighth.min()
    scale = span if kind == "minmax" else jnp.abs(eighth).max()
    safe = jnp.where(span > 0, scale, 1.0)
    scaled = 2.0 * ((eighth - low) / safe) - 1.0 if kind == "minmax" else eighth / safe
    return jnp.where(span > 0, jnp.clip(scaled, -1.0, 1.0), 1.0)


def _ranks(returns: jax.Array) -> jax.Array:
    """Mean ranks of equal values, brought to [-1, 1]."""
    ordered = jnp.sort(returns)
    below = jnp.searchsorted(ordered, returns, side="left")
    equal = jnp.searchsorted(ordered, returns, side="right") - below - 1
    return 2.0 * (below + 0.5 * equal) / max(returns.shape[0] - 1, 1) - 1.0


def effective_sample_size(weights: ArrayLike) -> jax.Array:
    """(sum w)^2 / sum w^2 of weights f32[N] >= 0: how many equally weighted samples they amount to; 0 for none.

    Raises:
      ValueError: weights that are no vector or, outside of compiled programs, not finite.
    """
    weights = vector(weights)
    squares = jnp.square(weights).sum()
    return jnp.where(squares > 0, jnp.square(weights.sum()) / jnp.where(squares > 0, squares, 1.0), 0.0)


def loss_weights(returns: ArrayLike, kind: str = "minmax") -> jax.Array:
    """w_b = max(gbar_b, 0), the factor of sample b's token loss in Eq. 6.

    A weight of 0 silences a sample but its tokens still count in Eq. 6's N_v, so do not drop it before batching.

    Args:
      returns: f32[N], finite, only those that the filter kept.
      kind: see ``normalize_returns``.

    Returns:
      f32[N] in [0, 1]; the highest return has weight 1 (``minmax``).

    Raises:
      ValueError: as ``normalize_returns``.
    """
    return jnp.maximum(normalize_returns(returns, kind), 0.0)
