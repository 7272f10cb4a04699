"""What the ring refuses in one line: shapes that would be broadcast, frames that are no bytes, too little to sample."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.replay import sampling
from covr_jax.types import Prior, TimeStep

ENVS, SLOTS = 2, 6
STEP = TimeStep(np.zeros(ENVS, np.int32), np.zeros(ENVS), np.ones(ENVS), np.zeros((ENVS, 4, 4, 9), np.uint8))
ACTION = np.zeros((ENVS, 3), np.float32)


@pytest.fixture(scope="module")
def empty():
    return replay.init(SLOTS, ENVS, 4, 3)


@pytest.mark.field
@pytest.mark.parametrize(
    ("changes", "action", "said"),
    [
        (
            {"observation": STEP.observation[:1]},
            ACTION,
            r"^observation must be uint8 \[2,4,4,C\] .* got uint8 \[1, 4, 4, 9",
        ),
        ({"observation": STEP.observation[0]}, ACTION, r"got uint8 \[4, 4, 9\]"),
        ({"observation": STEP.observation[..., :4]}, ACTION, r"C = 3 x frames, got uint8 \[2, 4, 4, 4\]"),
        ({"observation": STEP.observation * np.float32(1)}, ACTION, r"got float32 \[2, 4, 4, 9\]"),
        ({"reward": np.zeros(1)}, ACTION, r"^reward must be \[2\], got \[1\]"),
        ({"discount": np.float64(1.0)}, ACTION, r"^discount must be \[2\], got \[\]"),
        ({"step_type": np.zeros((2, 1), np.int32)}, ACTION, r"^step_type must be \[2\], got \[2, 1\]"),
        ({}, ACTION[:1], r"^action must be \[2,3\], got \[1, 3\]"),
        ({}, ACTION[:, :1], r"^action must be \[2,3\], got \[2, 1\]"),
    ],
)
def test_what_would_be_broadcast_into_a_slot_is_refused(empty, changes, action, said):
    for add in (replay.add, jax.jit(replay.add)):
        with pytest.raises(ValueError, match=said):
            add(empty, STEP._replace(**changes), action)


def test_answers_and_marks_have_the_shape_of_what_they_belong_to(empty):
    with pytest.raises(ValueError, match=r"^prior.valid must be \[4,2\], got \[4, 1\]"):
        replay.set_prior(empty, Prior(np.zeros((4, 2, 3)), np.ones((4, 1), bool)), every=1, hold=False)
    with pytest.raises(ValueError, match=r"^prior.action must be \[4,2,3\], got \[4, 1, 3\]"):
        replay.set_prior(empty, Prior(np.zeros((4, 1, 3)), np.ones((4, 2), bool)), every=1, hold=False)
    with pytest.raises(ValueError, match=r"^every must be at least 1, got 0"):
        replay.set_prior(empty, Prior(np.zeros((4, 2, 3)), np.ones((4, 2), bool)), every=0, hold=False)
    with pytest.raises(ValueError, match=r"^broken must be \[2\], got \[1\]"):
        replay.cut(empty, np.ones(1, bool))
    index = jnp.zeros(5, jnp.int32), jnp.zeros(5, jnp.int32)
    with pytest.raises(ValueError, match=r"^td_error must be \[5\], got \[1\]"):
        sampling.set_priorities(empty, index, jnp.ones(1))


@pytest.mark.field
def test_nothing_is_sampled_from_a_ring_that_holds_too_little(empty):
    """Outside of compiled programs, where the number of filled slots is known."""
    state, key = empty, jax.random.key(0)
    for count in range(3):
        with pytest.raises(ValueError, match=f"^sampling needs 3 filled slots, the ring has {count}$"):
            replay.sample(state, key, 4, 2)
        state = replay.add(state, STEP, ACTION)
    assert replay.sample(state, key, 4, 2).observation.shape == (4, 4, 4, 6)
    with pytest.raises(ValueError, match=r"^a ring of 6 slots holds no transition of 6 frames$"):
        replay.sample(state, key, 4, 6)
    for sizes, said in (
        ((0, 2), "batch_size must be at least 1, got 0"),
        ((4, 0), "frame_stack must be at least 1, got 0"),
        ((4, 2, 0), "n_step must be at least 1, got 0"),
    ):
        with pytest.raises(ValueError, match=f"^{said}$"):
            replay.sample(state, key, *sizes)


@pytest.mark.parametrize("position", range(4))
def test_a_ring_of_nothing_is_refused(position):
    sizes = [SLOTS, ENVS, 4, 3]
    sizes[position] = 0
    name = ("slots", "num_envs", "image_size", "action_dim")[position]
    with pytest.raises(ValueError, match=f"^{name} must be at least 1, got 0$"):
        replay.init(*sizes)
