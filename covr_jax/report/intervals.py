"""What a few seeds say: interquartile mean, probability of improvement, bootstrap intervals (Agarwal et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

RESAMPLES = 10_000
LEVEL = 0.95


class Interval(NamedTuple):
    """An interquartile mean and the interval that holds it with probability ``LEVEL``."""

    iqm: float
    low: float | None  # None for a single value
    high: float | None


class Improvement(NamedTuple):
    """How likely a run of one method beats one of another, and the interval of it, as of `Interval`."""

    probability: float
    low: float | None  # None where a method has a single value
    high: float | None


def interquartile(values: Sequence[float]) -> Interval:
    """Returns the mean without the lowest and the highest quarter, and its percentile bootstrap interval.

    Args:
      values: one per seed. A quarter is rounded down: of up to three values none is left out.
    """
    iqm = float(stats.trim_mean(values, 0.25))
    if len(values) < 2:
        return Interval(iqm, None, None)
    found = stats.bootstrap(
        (np.asarray(values, np.float64),),
        lambda x, axis: stats.trim_mean(x, 0.25, axis=axis),
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Interval(iqm, float(found.low), float(found.high))


def improvement(values: Sequence[float], others: Sequence[float]) -> Improvement:
    """Returns the share of pairs of runs in which the first is better, and its percentile bootstrap interval.

    Args:
      values: of the method, one per seed.
      others: of the method that it is compared with, one per seed; a tie counts half.
    """

    def share(x: np.ndarray, y: np.ndarray, axis: int = -1) -> np.ndarray:
        difference = x[..., :, None] - y[..., None, :]
        return (0.5 * (np.sign(difference) + 1.0)).mean((-2, -1))

    pair = np.asarray(values, np.float64), np.asarray(others, np.float64)
    if min(len(values), len(others)) < 2:
        return Improvement(float(share(*pair)), None, None)
    found = stats.bootstrap(
        pair,
        share,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(0),
    ).confidence_interval
    return Improvement(float(share(*pair)), float(found.low), float(found.high))
