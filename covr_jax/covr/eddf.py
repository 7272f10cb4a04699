"""Exploration-driven dynamic data filter, COVR's Eq. 5. Letters: N samples of D_f."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import core
from jax.typing import ArrayLike

KINDS = ("neg_entropy", "literal", "normalised", "progress")
TOP_FRACTION = 0.05  # of D_f, kept when the threshold leaves too little to learn from
NORMALISED_SPAN = 4.0  # sigmoid(+-4) is 0.98 and 0.02: nearly the whole (median, median + IQR)
PROGRESS_MARGIN = 1e-6  # keeps the logit of 0 and 1 finite


def vector(values: ArrayLike) -> jax.Array:
    """Returns returns, scores or weights as f32[N].

    Raises:
      ValueError: no vector; or a number that is not finite, which is looked for outside of compiled programs.
    """
    values = jnp.asarray(values, jnp.float32)
    if values.ndim != 1:
        raise ValueError(f"expected a vector [N], got shape {values.shape}")
    _check_finite("expected finite numbers", values)
    return values


def _scalar(name: str, value: ArrayLike) -> jax.Array:
    value = jnp.asarray(value, jnp.float32)
    if value.ndim:
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}")
    _check_finite(f"{name} must be finite", value)
    return value


def _check_finite(rule: str, values: jax.Array) -> None:
    """Checks numbers that are known: those of a tracer are not."""
    if not isinstance(values, core.Tracer) and not np.isfinite(known := np.asarray(values)).all():
        raise ValueError(f"{rule}, got {known[~np.isfinite(known)][0]}")


def z_score(returns: ArrayLike) -> jax.Array:
    """G_z = (g - mean(g)) / std(g), the standardised returns that Eq. 5 compares (population std).

    z-scores do not change with scale and shift, so returns are first mapped to [0, 1]: equal returns are then exactly
    equal (std 0 gives zeros, not the rounding noise of the mean), and neither 1e6 +- 1 nor +-1e30 costs float32 its
    digits or its range.

    Args:
      returns: f32[N], finite.

    Returns:
      f32[N], zeros where all returns are equal.

    Raises:
      ValueError: returns is no vector, or, outside of compiled programs, not finite.
    """
    returns = vector(returns)
    if returns.size == 0:
        return returns
    eighth = 0.125 * returns  # max - min may pass the largest float, and 1 / span is flushed to 0 above 2^126
    low, span = eighth.min(), eighth.max() - eighth.min()
    unit = (eighth - low) / jnp.where(span > 0, span, 1.0)
    std = unit.std()
    return jnp.where(std > 0, (unit - unit.mean()) / jnp.where(std > 0, std, 1.0), 0.0)


def adaptive_threshold(z_returns: ArrayLike, exploration: ArrayLike) -> jax.Array:
    """Tau = Median(G_z) + Sigmoid(exploration) * IQR(G_z), Eq. 5; IQR is the 75th less the 25th percentile.

    Args:
      z_returns: f32[N], N >= 1.
      exploration: scalar eps_t, see ``exploration_degree``.

    Returns:
      f32 scalar in [median, median + IQR], rising with exploration.

    Raises:
      ValueError: z_returns is empty or no vector, exploration is no scalar, or, outside of compiled programs, one of
        them is not finite.
    """
    z_returns, exploration = vector(z_returns), _scalar("exploration", exploration)
    if z_returns.size == 0:
        raise ValueError("no threshold without returns, got N = 0")
    q1, median, q3 = jnp.quantile(z_returns, jnp.array([0.25, 0.5, 0.75], jnp.float32))
    return median + jax.nn.sigmoid(exploration) * jnp.maximum(q3 - q1, 0.0)


def exploration_degree(
    entropy: ArrayLike, action_dim: int, kind: str = "neg_entropy", progress: ArrayLike = 0.0
) -> jax.Array:
    """eps_t = -H(pi) = E[log pi(a|s)], the exploration degree of Eq. 5 as read by default.

    The sigmoid of Eq. 5 makes tau rise with eps_t, while the text wants a loose filter as long as the policy explores
    and a strict one later. Both hold only if eps_t falls as entropy rises. The readings:

    * ``neg_entropy``: eps = -H. Default: the printed formula and the text are both true.
    * ``literal``: eps = +H. The printed formula alone; strict early, loose late.
    * ``normalised``: eps = 4 (H_mid - H) / (H_uniform - H_mid), H_mid halfway between SAC's target -A and the uniform
      policy's A ln 2; as ``neg_entropy``, without saturating when A is large.
    * ``progress``: eps = logit(progress), so that Sigmoid(eps) is the fraction of training done; an ablation control.

    Args:
      entropy: f32 scalar, H(pi) in nats of the squashed policy, mean over observations.
      action_dim: A >= 1.
      kind: one of the above.
      progress: scalar in [0, 1], read by ``progress`` alone.

    Returns:
      f32 scalar.

    Raises:
      ValueError: unknown kind, action_dim < 1, or an entropy that is no scalar or, outside of compiled programs, not
        finite.
    """
    if action_dim < 1:
        raise ValueError(f"action_dim must be at least 1, got {action_dim}")
    entropy = _scalar("entropy", entropy)
    if kind == "neg_entropy":
        return -entropy
    if kind == "literal":
        return entropy
    if kind == "normalised":
        uniform, target = action_dim * math.log(2.0), -float(action_dim)
        middle = 0.5 * (uniform + target)
        return NORMALISED_SPAN * (middle - entropy) / (uniform - middle)
    if kind == "progress":
        done = jnp.clip(_scalar("progress", progress), PROGRESS_MARGIN, 1.0 - PROGRESS_MARGIN)
        return jnp.log(done) - jnp.log1p(-done)
    raise ValueError(f"unknown exploration kind {kind!r}, expected one of {', '.join(KINDS)}")


def _top(returns: jax.Array, count: ArrayLike) -> jax.Array:
    """bool[N]: the ``count`` highest returns, the earlier one first among equals."""
    order = jnp.argsort(-returns, stable=True)
    return jnp.zeros(returns.shape, bool).at[order].set(jnp.arange(len(returns)) < count)


def dynamic_filter(
    returns: ArrayLike, exploration: ArrayLike, min_keep: int = 0, *, standardise: bool = True
) -> jax.Array:
    """keep_i = G_z,i > tau(G_z, exploration): the samples of D_f that the VLM is fine-tuned on (Eq. 5).

    The paper leaves open what happens when tau lies at or above nearly every return (sparse rewards have IQR 0, a
    policy near its ceiling is left-skewed). With ``min_keep``, a filter that keeps fewer keeps the highest
    max(min_keep, 5% of N) returns instead, which include all it would have kept. Returns that are all equal teach no
    preference, so nothing is kept and the caller skips the round.

    Args:
      returns: f32[N], finite.
      exploration: scalar eps_t.
      min_keep: least number to keep; 0 is Eq. 5 as printed.
      standardise: False compares the returns as they are, not their z-scores.

    Returns:
      bool[N].

    Raises:
      ValueError: as ``adaptive_threshold``, or min_keep < 0.
    """
    if min_keep < 0:
        raise ValueError(f"min_keep must not be negative, got {min_keep}")
    returns = vector(returns)
    size = returns.shape[0]
    if size == 0:
        return jnp.zeros(0, bool)
    z = z_score(returns) if standardise else returns
    keep = z > adaptive_threshold(z, exploration)
    if min_keep == 0:
        return keep
    # What is above a threshold are the highest returns, so their number says all. With number and mask, a compiler that
    # computes the scores twice, and rounds them differently, would keep nothing where the threshold is a return.
    number = keep.sum()
    least = min(size, max(min_keep, math.ceil(TOP_FRACTION * size)))
    varied = returns.max() > returns.min()
    return _top(returns, jnp.where(number >= min_keep, number, least)) & varied
