"""The soft indicator that DMControl rewards are made of (Tassa et al. 2018, section "Reward")."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def _gaussian(distance: Float[Array, "*batch"], value_at_margin: float) -> Float[Array, "*batch"]:
    scale = np.sqrt(-2.0 * np.log(value_at_margin)).item()
    return jnp.exp(-0.5 * (distance * scale) ** 2)


def _linear(distance: Float[Array, "*batch"], value_at_margin: float) -> Float[Array, "*batch"]:
    return jnp.maximum(1.0 - (1.0 - value_at_margin) * distance, 0.0)


def _quadratic(distance: Float[Array, "*batch"], value_at_margin: float) -> Float[Array, "*batch"]:
    return jnp.maximum(1.0 - (1.0 - value_at_margin) * distance**2, 0.0)


_SIGMOIDS = {"gaussian": _gaussian, "linear": _linear, "quadratic": _quadratic}


def tolerance(
    x: Float[Array | np.ndarray, "*batch"],
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Float[Array, "*batch"]:
    """Returns 1 inside the bounds, and outside a value that falls with the distance to them.

    Args:
      x: the values to judge.
      bounds: lower and upper bound, both inclusive; they may be infinite.
      margin: distance to the bounds at which the value is ``value_at_margin``; 0: the value is 0 everywhere outside.
      sigmoid: shape of the fall: ``gaussian``, ``linear`` or ``quadratic``.
      value_at_margin: value at the distance ``margin``.

    Returns:
      Values in [0, 1].

    Raises:
      ValueError: bounds out of order, a negative margin, or an unknown ``sigmoid``.
    """
    lower, upper = bounds
    if lower > upper or margin < 0.0:
        raise ValueError(f"tolerance needs lower <= upper and margin >= 0, got bounds {bounds}, margin {margin}")
    if sigmoid not in _SIGMOIDS:
        raise ValueError(f"unknown sigmoid {sigmoid!r}; choose from {', '.join(_SIGMOIDS)}")
    inside = (lower <= x) & (x <= upper)
    if margin == 0.0:
        return jnp.where(inside, 1.0, 0.0)
    distance = jnp.where(x < lower, lower - x, x - upper) / margin
    return jnp.where(inside, 1.0, _SIGMOIDS[sigmoid](distance, value_at_margin))
