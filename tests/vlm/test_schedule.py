"""The learning rate of a round, and when a round is given up."""

import math

import pytest
import torch

from covr_jax.vlm.schedule import diverged, rate, smoothing_floor
from covr_jax.vlm.trainer import FinetuneOptions, ralw_loss


def test_the_floor_of_label_smoothing():
    """0.1 over Qwen's vocabulary: 1.52 nats. d = 0.5 over two tokens is the label (0.75, 0.25)."""
    assert smoothing_floor(0.1, 151_936) == pytest.approx(1.518, abs=1e-3)
    assert smoothing_floor(0.5, 2) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert smoothing_floor(0.0, 100) == 0.0
    logits = torch.log(torch.tensor([[[0.75, 0.25]]]))
    found = ralw_loss(logits, torch.tensor([[0]]), torch.ones(1), 0.5)
    assert float(found) == pytest.approx(smoothing_floor(0.5, 2), rel=1e-6)


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
