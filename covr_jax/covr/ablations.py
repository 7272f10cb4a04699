"""The controls of COVR's Table 5: what EDDF and RALW are compared with. Letters: N samples of D_f."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from . import eddf, ralw

FILTERS = ("eddf", "random", "top", "none")
WEIGHTS = ("ralw", "uniform", "random")


def select(
    key: jax.Array,
    scores: ArrayLike,
    exploration: ArrayLike,
    *,
    kind: str = "eddf",
    min_keep: int = 0,
    z_score: bool = True,
    percentile: float = 80.0,
) -> jax.Array:
    """Which samples the VLM is fine-tuned on: EDDF (Eq. 5), or one of its controls.

    Args:
      key: consumed by ``random`` alone.
      scores: f32[N], returns-to-go, or what stands in for them.
      exploration: eps_t.
      kind: ``eddf``; ``random``: as many as EDDF keeps, drawn without replacement (M1); ``top``: scores of at least
        the given ``percentile`` (M2 to M4: 80, 90, 95); ``none``: all.
      percentile: of ``top``.
      min_keep: of EDDF.
      z_score: False applies Eq. 5 to the scores as they are (M5). Median and quartiles move with
        their data, so that this keeps the same samples but for rounding.

    Returns:
      bool[N].

    Raises:
      ValueError: unknown kind, scores that are no vector or, outside of compiled programs, not finite, or a percentile
        that is none.
    """
    scores = eddf.vector(scores)
    if not 0.0 <= percentile <= 100.0:
        raise ValueError(f"percentile must lie in [0, 100], got {percentile}")
    if kind == "none":
        return jnp.ones(scores.shape, bool)
    if kind == "top":
        return scores >= jnp.percentile(scores, percentile)
    if kind not in FILTERS:
        raise ValueError(f"unknown filter {kind!r}, expected one of {', '.join(FILTERS)}")
    keep = eddf.dynamic_filter(scores, exploration, min_keep, standardise=z_score)
    return jax.random.permutation(key, keep) if kind == "random" else keep


def weights(key: jax.Array, scores: ArrayLike, *, kind: str = "ralw", norm: str = "minmax") -> jax.Array:
    """w_b of Eq. 6: RALW, or one of its controls.

    Args:
      key: consumed by ``random`` alone.
      scores: f32[N], of the kept samples.
      kind: ``ralw``; ``uniform``: 1 for all (M8); ``random``: max(U(-1, 1), 0) in place of the normalised return (M9).
      norm: of ``ralw.normalize_returns``.

    Returns:
      f32[N] in [0, 1].

    Raises:
      ValueError: unknown kind, or scores that are no vector or, outside of compiled programs, not finite.
    """
    scores = eddf.vector(scores)
    if kind == "ralw":
        return ralw.loss_weights(scores, norm)
    if kind == "uniform":
        return jnp.ones(scores.shape, jnp.float32)
    if kind == "random":
        return jnp.maximum(jax.random.uniform(key, scores.shape, minval=-1.0, maxval=1.0), 0.0)
    raise ValueError(f"unknown weights {kind!r}, expected one of {', '.join(WEIGHTS)}")
