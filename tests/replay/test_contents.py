"""What the ring keeps and gives back: inserts, priors by index, stored observations, windows, sizes."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.types import Prior, StepType, TimeStep
from tests.support.histories import filled, make_history, stacks, times_in, usable_priors


def each(tree):
    """With a leading axis of one."""
    return jax.tree.map(lambda x: np.asarray(x)[None], tree)


def test_add_is_one_program_and_forgets_the_oldest_slot_with_its_prior():
    lanes, slots = 2, 6
    history = make_history(np.random.default_rng(2), 17, lanes)
    add = jax.jit(replay.add, donate_argnums=0)
    state = replay.init(slots, lanes, 2, 2)
    for t in range(17):
        timestep = TimeStep(history.step_type[t], history.reward[t], history.discount[t], history.frame[t])
        state = add(state, timestep, history.action[t])
        state = state.replace(prior=state.prior._replace(valid=state.prior.valid.at[t % slots].set(True)))
        assert int(state.count) == t + 1
        assert int(replay.size(state)) == min(t + 1, slots)
        if t > 12:
            assert bool(state.prior.valid.all())
    assert add._cache_size() == 1
    state = add(state, timestep, history.action[16])
    assert state.prior.valid[:, 0].tolist() == [slot != 17 % slots for slot in range(slots)]
    for time in range(12, 17):
        np.testing.assert_array_equal(state.reward[time % slots], history.reward[time])
        np.testing.assert_array_equal(state.step_type[time % slots], history.step_type[time])
        np.testing.assert_array_equal(state.pictures[time % slots], history.frame[time])


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize(("queries", "every"), [(1, 1), (2, 3), (3, 2), (1, 7), (4, 2)])
def test_priors_reach_the_slots_they_answer(hold, queries, every):
    lanes, slots, length = 3, 9, 31
    attach = jax.jit(partial(replay.set_prior, every=every, hold=hold))
    generator = np.random.default_rng([queries, every])
    held = 0
    for count in range(queries * every, length + 1):
        history = make_history(generator, length, lanes)
        state = filled(history, slots, count)
        # An earlier answer to an untouched slot must stay; one to a slot that is answered again must not.
        before = Prior(jnp.full((slots, lanes, 2), 7.0), jnp.ones((slots, lanes), bool))
        action = generator.uniform(0.1, 1.0, (queries, lanes, 2)).astype(np.float32)
        valid = generator.random((queries, lanes)) < 0.8
        after = jax.tree.map(np.asarray, attach(state.replace(prior=before), Prior(action, valid)).prior)
        usable, answer = usable_priors(each(history), [count], valid[None], every, hold)
        for time in range(max(count - slots, 0), count):
            got = after.action[time % slots], after.valid[time % slots]
            if time < count - queries * every:
                assert got[1].all() and (got[0] == 7.0).all()
                continue
            expected = action[answer[0, time], np.arange(lanes)]
            np.testing.assert_array_equal(got[1], usable[0, time], f"count {count}, time {time}")
            np.testing.assert_array_equal(got[0], np.where(usable[0, time, :, None], expected, 0.0))
            held += usable[0, time].sum() * ((time - count + queries * every) % every > 0)
    assert (held > 0) == (hold and every > 1)


def test_a_sampled_transition_carries_the_prior_of_its_own_observation():
    lanes, slots, count = 2, 12, 29
    history = make_history(np.random.default_rng(5), count, lanes, end=0.2)
    answers = Prior(history.action[-10:] / 100.0, np.arange(20).reshape(10, 2) % 3 > 0)
    state = replay.set_prior(filled(history, slots), answers, every=1, hold=False)
    batch = jax.tree.map(np.asarray, replay.sample(state, jax.random.key(0), 512, 2))
    time, env_id = batch.action.astype(int).T
    asked = time >= count - 10
    valid = asked & np.asarray(answers.valid)[np.where(asked, time - count + 10, 0), env_id]
    assert 0 < valid.sum() < len(valid)
    np.testing.assert_array_equal(batch.prior.valid, valid)
    np.testing.assert_allclose(batch.prior.action, np.where(valid[:, None], batch.action / 100.0, 0.0), rtol=1e-6)


@pytest.mark.parametrize("count", [7, 10, 34])
def test_observations_of_every_stored_time(count):
    lanes, slots, stack = 2, 10, 3
    history = make_history(np.random.default_rng(9), count, lanes)
    oldest = max(count - slots, 0)
    time, env_id = np.indices((count - oldest, lanes)).reshape(2, -1)
    time = time + oldest
    seen, seen_lane = times_in(np.asarray(replay.observations(filled(history, slots), time, env_id, stack)))
    # Where the ring has lost an observation's older frames, the oldest one left stands in for them.
    expected = np.maximum(stacks(history.step_type[None], stack)[0, time, env_id], oldest)
    np.testing.assert_array_equal(seen, expected)
    assert (seen_lane == env_id[:, None]).all()


@pytest.mark.parametrize(
    ("count", "start", "times"),
    [
        (4, 0, range(4)),
        (4, 2, range(2, 4)),
        (8, 0, range(8)),
        (21, 15, range(15, 21)),
        (21, 3, range(13, 21)),
        (9, 9, []),
    ],
)
def test_a_window_is_in_order_and_without_what_was_overwritten(count, start, times):
    history = make_history(np.random.default_rng(3), count, 2)
    window = replay.window(filled(history, 8), start)
    times = list(times)
    assert window.slots.tolist() == [time % 8 for time in times]
    np.testing.assert_array_equal(window.reward, history.reward[times])
    np.testing.assert_array_equal(window.step_type, history.step_type[times])
    np.testing.assert_array_equal(window.action, history.action[times])
    assert all(isinstance(values, np.ndarray) for values in window)


@pytest.mark.parametrize("count", [1, 4, 8, 21])
def test_the_scale_is_the_mean_size_of_the_stored_rewards(count):
    history = make_history(np.random.default_rng(4), count, 2)
    history = history._replace(reward=np.where(history.step_type == StepType.FIRST, 0.0, history.reward))
    stored = slice(max(count - 8, 0), count)
    rewards = history.reward[stored][history.step_type[stored] != StepType.FIRST]
    assert count < 8 or ((rewards < 0).any() and (rewards > 0).any())
    expected = np.abs(rewards).mean() if rewards.size else 0.0
    np.testing.assert_allclose(replay.reward_scale(filled(history, 8)), expected, rtol=1e-6)


@pytest.mark.parametrize(("slots", "lanes", "image", "action_dim"), [(7, 3, 5, 2), (50, 1, 12, 6), (1, 1, 1, 1)])
def test_predicted_bytes_are_those_of_the_arrays(slots, lanes, image, action_dim):
    state = replay.init(slots, lanes, image, action_dim)
    real = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) - state.count.nbytes - state.top_priority.nbytes
    assert replay.nbytes(slots, lanes, image, action_dim) == real


@pytest.mark.parametrize(("transitions", "lanes", "stack"), [(1, 1, 1), (1, 1, 3), (100, 3, 3), (7, 16, 2)])
def test_a_full_ring_offers_at_least_the_transitions_asked_for(transitions, lanes, stack):
    slots = replay.capacity_in_slots(transitions, lanes, stack)
    oldest = stack - 1  # of the stored slots, the first with its whole history
    assert (slots - 1 - oldest) * lanes >= transitions
    assert (slots - 2 - oldest) * lanes < transitions + lanes  # and not many more
