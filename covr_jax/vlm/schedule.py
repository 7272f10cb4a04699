"""The learning rate over the steps of a round, the least loss it can reach, and when it is given up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from covr_jax.vlm.trainer import FinetuneOptions


def smoothing_floor(smoothing: float, vocabulary: int) -> float:
    """Returns the least loss per token that label smoothing leaves, nats: the entropy of the smoothed label.

    Args:
      smoothing: d in [0, 1).
      vocabulary: V tokens, over which d is spread.
    """
    if not smoothing:
        return 0.0
    other = smoothing / vocabulary
    label = 1.0 - smoothing + other
    return -label * math.log(label) - (vocabulary - 1) * other * math.log(other)


def diverged(losses: list[float], total: int, allowed: float | None) -> bool:
    """Whether the mean of the newest losses exceeds the lowest earlier mean by more than ``allowed``.

    Means are taken over a tenth of ``total`` losses, and at least over three.

    Args:
      losses: so far, nats per token, divided by the mean weight of the batch.
      total: number of steps of the round.
      allowed: nats per token; None: any.
    """
    window = max(3, total // 10)
    if allowed is None or len(losses) < 2 * window:
        return False
    means = np.convolve(losses, np.full(window, 1.0 / window), "valid")
    return bool(means[-1] - means[:-window].min() > allowed)


def rate(step: int, total: int, options: FinetuneOptions) -> float:
    """Returns the factor of the learning rate at a step: linear warm-up, then constant or linear decay towards zero.

    By hand: the schedules of transformers start their warm-up at a factor of zero, so that the first step is lost, and
    the chained ones of Torch round differently.

    Args:
      step: in [0, total).
      total: number of steps of the round.
      options: warm-up and schedule.

    Raises:
      ValueError: for an unknown schedule.
    """
    warmup = math.ceil(options.warmup * total)
    if step < warmup:
        return (step + 1) / warmup
    if options.schedule == "constant":
        return 1.0
    if options.schedule != "linear":
        raise ValueError(f"schedule must be 'constant' or 'linear', not {options.schedule!r}")
    return (total - step) / (total - warmup)
