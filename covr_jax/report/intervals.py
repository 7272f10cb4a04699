"""What a few seeds say about a mean: the interquartile mean and its bootstrap interval (Agarwal et al. 2021)."""

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
