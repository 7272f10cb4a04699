"""The soft indicator that DMControl rewards are made of (Tassa et al. 2018, section "Reward")."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from covr_jax.types import Array


def _gaussian(distance: Array, value_at_margin: float) -> Array:
    scale = np.sqrt(-2.0 * np.log(value_at_margin)).item()
    return jnp.exp(-0.5 * (distance * scale) ** 2)


def _linear(distance: Array, value_at_margin: float) -> Array:
    return jnp.maximum(1.0 - (1.0 - value_at_margin) * distance, 0.0)


def _quadratic(distance: Array, value_at_margin: float) -> Array:
    return jnp.maximum(1.0 - (1.0 - value_at_margin) * distance**2, 0.0)


_FALLOFF = {"gaussian": _gaussian, "linear": _linear, "quadratic": _quadratic}


def tolerance(
    x: Array,
    bounds: tuple[float, float] = (0.0, 0.0),
    margin: float = 0.0,
    sigmoid: str = "gaussian",
    value_at_margin: float = 0.1,
) -> Array:
    """1 inside ``bounds``, falling to ``value_at_margin`` at ``margin`` outside; same shape as ``x``.

    Raises:
      ValueError: bounds out of order, a negative margin, or an unknown ``sigmoid``.
    """
    lower, upper = bounds
    if lower > upper or margin < 0.0:
        raise ValueError(f"tolerance needs lower <= upper and margin >= 0, got bounds {bounds}, margin {margin}")
    if sigmoid not in _FALLOFF:
        raise ValueError(f"unknown sigmoid {sigmoid!r}; choose from {', '.join(_FALLOFF)}")
    inside = (lower <= x) & (x <= upper)
    if margin == 0.0:
        return jnp.where(inside, 1.0, 0.0)
    distance = jnp.where(x < lower, lower - x, x - upper) / margin
    return jnp.where(inside, 1.0, _FALLOFF[sigmoid](distance, value_at_margin))
