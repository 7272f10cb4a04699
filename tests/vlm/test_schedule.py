"""The learning rate of a round, and when a round is given up."""

import pytest

from covr_jax.vlm.schedule import diverged, rate
from covr_jax.vlm.trainer import FinetuneOptions


def test_divergence_by_hand():
    assert not diverged([1.0, 1.0, 1.0, 2.0, 2.0, 1.9], 6, 1.0)
    assert diverged([1.0, 1.0, 1.0, 2.0, 2.0, 2.1], 6, 1.0)
    assert not diverged([1.0, 1.0, 1.0, 9.0, 9.0], 6, 1.0)  # too few to say
    assert not diverged([1.0] * 3 + [9.0] * 3, 6, None)
    assert diverged([4.0] * 3 + [1.0] * 3 + [2.5] * 3, 9, 1.0)  # the best counts, not the first
    assert not diverged([0.0] * 10 + [9.0] * 9, 100, 1.0) and diverged([0.0] * 10 + [9.0] * 10, 100, 1.0)


def test_rates():
    options = FinetuneOptions(warmup=0.2)
    assert [rate(s, 10, options) for s in (0, 1, 2, 9)] == [0.5, 1.0, 1.0, 1.0]
    options = options._replace(schedule="linear")
    assert [rate(s, 10, options) for s in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.5, 0.125]
    with pytest.raises(ValueError):
        rate(5, 10, options._replace(schedule="cosine"))
