"""The VLM's guidance of the policy, COVR's Eq. 4. Letters: B batch, A action."""

from __future__ import annotations

import math
import numbers

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

KINDS = ("constant", "annealed")
MEANS = ("batch", "valid")


def guidance_loss(action: ArrayLike, prior_action: ArrayLike, valid: ArrayLike, mean: str = "batch") -> jax.Array:
    """(1/B) sum_b valid_b ||a_v,b - a_r,b||_2^2, the regulariser that Eq. 4 adds to the actor loss times lambda.

    With ``mean="batch"`` B counts all rows: a batch in which the VLM answered half of the frames pulls half as hard.
    With ``mean="valid"`` it counts the valid rows. Whatever stands in an invalid row of the prior, NaN included,
    reaches neither the value nor the gradient; the prior is a constant.

    Args:
      action: f32[B,A], a_r of the policy being trained; the gradient flows here.
      prior_action: f32[B,A], a_v.
      valid: bool[B], whether a_v may be used.
      mean: one of MEANS.

    Returns:
      f32 scalar, 0 for an empty batch.

    Raises:
      ValueError: shapes that do not match, a ``valid`` of other numbers than 0 and 1, or another mean.
    """
    action, prior_action = jnp.asarray(action, jnp.float32), jnp.asarray(prior_action, jnp.float32)
    valid = _mask(valid)
    if action.ndim != 2 or action.shape != prior_action.shape or valid.shape != action.shape[:1]:
        raise ValueError(
            f"expected action [B,A], prior_action [B,A] and valid [B],"
            f" got {action.shape}, {prior_action.shape} and {valid.shape}"
        )
    # Selected before the square: the gradient of a square that is masked later is 0 * NaN.
    gap = jnp.where(valid[:, None], action - jax.lax.stop_gradient(prior_action), 0.0)
    return jnp.square(gap).sum() / jnp.maximum(_rows(valid, mean), 1.0)


def effective_share(valid: ArrayLike, mean: str = "batch") -> jax.Array:
    """The factor of lambda in a batch: the share of valid rows (``batch``), or 1 where there is one (``valid``)."""
    valid = _mask(valid)
    return valid.sum() / jnp.maximum(_rows(valid, mean), 1.0)


def _mask(valid: ArrayLike) -> jax.Array:
    valid = jnp.asarray(valid)
    if not (valid.dtype == bool or jnp.issubdtype(valid.dtype, jnp.integer)):  # a weight of 0.1 would count as True
        raise ValueError(f"valid must be bool [B], got {valid.dtype}")
    return valid.astype(bool)


def _rows(valid: jax.Array, mean: str) -> jax.Array | float:
    if mean not in MEANS:
        raise ValueError(f"unknown mean {mean!r}, expected one of {', '.join(MEANS)}")
    return float(valid.shape[0]) if mean == "batch" else valid.sum().astype(jnp.float32)


def weight(kind: str, base: float, env_steps: ArrayLike, anneal_steps: int) -> jax.Array:
    """lambda_t = base (``constant``), or base * max(0, 1 - t / anneal_steps) (``annealed``): lambda of Eq. 4.

    COVR keeps lambda constant; the annealed one is its APL baseline in continuous form.

    Args:
      kind: ``constant`` or ``annealed``.
      base: lambda_0 >= 0.
      env_steps: scalar t.
      anneal_steps: env steps until the weight is 0; read by ``annealed`` alone.

    Returns:
      f32 scalar.

    Raises:
      ValueError: unknown kind, a base that is negative or not finite, or an annealing over no steps.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown guidance weight {kind!r}, expected one of {', '.join(KINDS)}")
    if isinstance(base, numbers.Real) and not 0.0 <= base < math.inf:
        raise ValueError(f"guidance weight must not be negative or infinite, got {base}")
    scale: jax.Array = jnp.asarray(base, jnp.float32)
    if kind == "constant":
        return scale
    if anneal_steps <= 0:
        raise ValueError(f"anneal_steps must be positive, got {anneal_steps}")
    left = 1.0 - jnp.asarray(env_steps, jnp.float32) / anneal_steps
    return scale * jnp.clip(left, 0.0, 1.0)
