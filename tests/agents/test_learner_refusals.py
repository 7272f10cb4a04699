"""What the learner's public functions refuse in one line: images in another order, and what would be broadcast."""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
import pytest

from covr_jax.agents import make_learner, make_method
from covr_jax.config import AugmentConfig, SACConfig
from covr_jax.types import Batch, Future, Maps, Prior

FUTURE = Future(np.zeros((3, 4, 2)), np.zeros((3, 4)), np.zeros((3, 4, 20, 20, 9), np.uint8), np.ones(4, bool))


@pytest.mark.field
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"observation": np.zeros((4, 9, 20, 20), np.uint8)}, r"observation must be uint8 \[B,H,W,C\]"),
        ({"observation": np.zeros((4, 20, 20, 9), np.float32)}, "got float32"),
        ({"next_observation": np.zeros((4, 20, 20, 8), np.uint8)}, "C = 3 x frames"),
        ({"next_observation": np.zeros((5, 20, 20, 9), np.uint8)}, "must have one shape"),
        ({"action": np.zeros((4, 1), np.float32)}, r"action must be \[4,2\], got \[4, 1\]"),
        ({"reward": np.zeros((4, 1), np.float32)}, r"reward must be \[4\], got \[4, 1\]"),
        ({"next_observation": np.zeros((4, 20, 20, 0), np.uint8)}, "C = 3 x frames"),
        ({"weight": np.ones((4, 1), np.float32)}, r"weight must be \[4\], got \[4, 1\]"),
        ({"previous_action": np.zeros((1, 2), np.float32)}, r"previous_action must be \[4,2\], got \[1, 2\]"),
        ({"future": FUTURE._replace(action=np.zeros((3, 1, 2)))}, r"future.action must be \[3,4,2\], got \[3, 1, 2\]"),
        ({"future": FUTURE._replace(reward=np.zeros(3))}, r"future.reward must be \[3,4\], got \[3\]"),
        (
            {"future": FUTURE._replace(observation=FUTURE.observation[:2])},
            r"observation must be \[3,4,20,20,9\]",
        ),
        ({"future": FUTURE._replace(observation=np.zeros((3, 4, 20, 20, 9)))}, "got float64"),
        ({"future": FUTURE._replace(valid=np.ones((4, 1), bool))}, r"future.valid must be \[4\], got \[4, 1\]"),
        ({"future": FUTURE._replace(discount=np.ones(4))}, r"future.discount must be \[3,4\], got \[4\]"),
        ({"future": FUTURE._replace(reached=np.ones((4, 3), bool))}, r"future.reached must be \[3,4\], got \[4, 3\]"),
        ({"reward_scale": np.ones(4, np.float32)}, r"reward_scale must be .*, got \[4\]"),
        ({"maps": Maps(np.zeros((1, 49)), np.ones(4, bool))}, r"maps.value must be \[4,G\*G\], got \[1, 49\]"),
        ({"maps": Maps(np.zeros((4, 49)), np.ones((4, 1), bool))}, r"maps.valid must be \[4\], got \[4, 1\]"),
    ],
)
def test_arrays_of_another_order_are_refused_at_every_door(changes, said):
    """The images of Torch's code are [B,C,H,W]: the first kernel would take their columns for channels."""
    learner = make_learner(2, 1e-3, make_method("rad", AugmentConfig(), 20, "translate"), SACConfig())
    images, zeros = np.zeros((4, 20, 20, 9), np.uint8), np.zeros(4, np.float32)
    prior = Prior(np.zeros((4, 2), np.float32), np.zeros(4, bool))
    batch = Batch(images, np.zeros((4, 2), np.float32), zeros, zeros, images, prior)._replace(**changes)
    with pytest.raises(ValueError, match=said):
        learner.update(None, batch, jax.random.key(0), with_actor=True)
    if "observation" in changes:
        for call in (learner.act, partial(learner.value, action=batch.action)):
            with pytest.raises(ValueError, match=said):
                call(None, batch.observation)
        with pytest.raises(ValueError, match=said):
            learner.init(jax.random.key(0), batch.observation[:1], batch.action[:1])
