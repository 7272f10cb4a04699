"""What a sample tells of the steps around it: the action before and the K steps after, against the whole past.

T slots, E lanes, S stack, K horizon.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.types import StepType, TimeStep
from tests.support.histories import (
    FIRST,
    LAST,
    MID,
    History,
    check_batches,
    fill_program,
    filled,
    make_histories,
    make_history,
    stacks,
    times_in,
)

SEQUENCES, ROWS = 1_000, 12
SHAPES = [(1, 6, 3, 3), (3, 9, 2, 2), (2, 12, 1, 4), (1, 8, 4, 2)]  # E, T, S, K


def at(values, index, time):
    """The values at other times of the same histories and lanes."""
    return values[index[0], time, index[2]]


@pytest.mark.parametrize(
    ("lanes", "slots", "stack", "horizon"),
    [*SHAPES[:2], *(pytest.param(*shape, marks=pytest.mark.slow) for shape in SHAPES[2:])],
)
def test_the_steps_around_a_sample_are_those_that_happened(lanes, slots, stack, horizon):
    generator = np.random.default_rng([lanes, slots, stack, horizon])
    length = 4 * slots
    history = make_histories(generator, SEQUENCES, length, lanes)
    counts = generator.integers(stack + 1, length + 1, SEQUENCES)
    # Some episodes were broken off instead of ending; what may be read is the same.
    cut = (history.step_type == LAST) & (generator.random(history.step_type.shape) < 0.3)
    stored = history._replace(step_type=np.where(cut, StepType.CUT, history.step_type))
    states = fill_program(slots, batched=True)(jax.tree.map(jnp.asarray, stored), jnp.asarray(counts))
    options = {"batch_size": ROWS, "frame_stack": stack, "previous": True, "horizon": horizon}
    sample_each = jax.jit(jax.vmap(partial(replay.sample, **options)))
    batch = jax.tree.map(np.asarray, sample_each(states, jax.random.split(jax.random.key(slots), SEQUENCES)))
    index = check_batches(history, counts, slots, stack, batch)
    time, newest = index[1], counts[:, None] - 1
    oldest = np.maximum(counts - slots, 0)[:, None]

    known = (history.step_type[index] != FIRST) & (time > oldest)
    before = at(history.action, index, np.maximum(time - 1, 0))
    np.testing.assert_array_equal(batch.previous_action, np.where(known[..., None], before, 0.0))
    assert 0.1 < known.mean() < 0.95

    future, reached = batch.future, np.ones(time.shape, bool)
    stacked = stacks(history.step_type, stack)
    for step in range(horizon):
        reached &= at(history.step_type, index, np.minimum(time + step, length - 1)) != LAST
        reached &= time + step < newest
        np.testing.assert_array_equal(future.reached[:, step], reached)
        arrived = at(history.discount, index, np.minimum(time + step + 1, length - 1))
        np.testing.assert_array_equal(future.discount[:, step][reached], arrived[reached])
    np.testing.assert_array_equal(future.valid, reached)
    assert 0.05 < reached.mean() < 0.95
    sequences, rows = np.nonzero(reached)
    for step in range(horizon):
        now = time[reached] + step, index[2][reached]
        np.testing.assert_array_equal(future.action[sequences, step, rows], np.stack(now, -1))
        following = sequences, now[0] + 1, now[1]
        np.testing.assert_array_equal(future.reward[sequences, step, rows], history.reward[following])
        seen, env_id = times_in(future.observation[sequences, step, rows])
        np.testing.assert_array_equal(seen, stacked[following])
        assert (env_id == now[1][:, None]).all()


def by_hand(slots, count=None):
    """Rewards 1, 2, 4, ... of one episode of four steps and the start of the next; the action at time t is t + 1."""
    step_type = np.array([FIRST, MID, MID, MID, LAST, FIRST, MID], np.int32)[:, None]
    reward = np.array([0, 1, 2, 4, 8, 0, 16], np.float32)[:, None]
    time = np.arange(7)
    frame = np.zeros((7, 1, 2, 2, 3), np.uint8) + np.stack([time, 0 * time, 0 * time], -1)[:, None, None, None]
    action = np.tile(time[:, None, None] + 1.0, 2)
    history = History(step_type, reward, np.ones((7, 1), np.float32), action, frame.astype(np.uint8))
    return filled(history, slots, count)


def rows_by_time(batch):
    """The first row of each time that was drawn."""
    return {int(action) - 1: row for row, action in reversed(list(enumerate(batch.action[:, 0].tolist())))}


@pytest.mark.parametrize(
    ("slots", "count", "before", "valid"),
    [
        # Two steps on: from time 3 the episode ends before, from 5 the past does.
        (8, 7, {0: 0, 1: 1, 2: 2, 3: 3, 5: 0}, [0, 1, 2]),
        (8, 4, {0: 0, 1: 1, 2: 2}, [0, 1]),
        # Time 2 is the oldest in a ring of five: the action before it is gone; 5 and 6 lie in the slots of 0 and 1.
        (5, 7, {2: 0, 3: 3, 5: 0}, [2]),
    ],
)
def test_two_steps_on_by_hand(slots, count, before, valid):
    sample = jax.jit(partial(replay.sample, batch_size=200, frame_stack=1, previous=True, horizon=2))
    batch = jax.tree.map(np.asarray, sample(by_hand(slots, count), jax.random.key(0)))
    rows = rows_by_time(batch)
    assert {time: batch.previous_action[row, 0] for time, row in rows.items()} == before
    assert sorted(time for time, row in rows.items() if batch.future.valid[row]) == valid
    rewards = {time: batch.future.reward[:, row].tolist() for time, row in rows.items() if time in valid}
    assert rewards == {time: values for time, values in {0: [1, 2], 1: [2, 4], 2: [4, 8]}.items() if time in valid}
    for time in valid:
        assert batch.future.action[:, rows[time], 0].tolist() == [time + 1, time + 2]
        assert times_in(batch.future.observation[:, rows[time]])[0][:, 0].tolist() == [time + 1, time + 2]


def test_actors_are_told_the_action_before_as_the_ring_will_tell_it():
    """What acting reads just before a slot is written is what sampling finds there later."""
    slots, lanes, length = 6, 3, 40
    history = make_history(np.random.default_rng(4), length, lanes)
    add, last = jax.jit(replay.add), jax.jit(replay.last_action)
    found = jax.jit(replay.previous_actions)
    state, env_id = replay.init(slots, lanes, 2, 2), np.arange(lanes)
    started = 0
    for time in range(length):
        timestep = TimeStep(history.step_type[time], history.reward[time], history.discount[time], history.frame[time])
        told = np.asarray(last(state, timestep))
        first = history.step_type[time] == FIRST
        expected = np.where(first[:, None], 0.0, np.stack([np.full(lanes, time - 1), env_id], -1))
        np.testing.assert_array_equal(told, expected)
        state = add(state, timestep, history.action[time])
        np.testing.assert_array_equal(found(state, jnp.full(lanes, time), env_id), told)
        started += first.sum()
    assert lanes < started < length


def test_without_being_asked_a_sample_has_neither():
    batch = replay.sample(by_hand(8), jax.random.key(0), 4, 1)
    assert batch.previous_action is None and batch.future is None
