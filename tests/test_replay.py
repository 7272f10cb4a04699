"""The ring against a plain list of all steps. T slots, E lanes, S stack; frames spell their own time and lane."""

from __future__ import annotations

from functools import cache, partial
from operator import itemgetter
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.types import Prior, StepType, TimeStep

FIRST, MID, LAST = StepType
SEQUENCES = 512  # random histories per shape
SHAPES = [(1, 5, 3), (3, 7, 2), (2, 9, 3), (1, 12, 1)]  # E, T, S

sample = jax.jit(replay.sample, static_argnums=(2, 3, 4, 5))


class History(NamedTuple):
    """Everything that ever happened, which the ring may forget."""

    step_type: np.ndarray  # [N,E]
    reward: np.ndarray
    discount: np.ndarray
    action: np.ndarray  # [N,E,2] = (time, lane)
    frame: np.ndarray  # u8[N,E,2,2,3] = (time % 256, lane, time // 256)


def make_history(generator, length, lanes, end=0.3):
    step_type = np.zeros((length, lanes), np.int32)
    for lane in range(lanes):
        for time in range(1, length):
            if step_type[time - 1, lane] == LAST:
                step_type[time, lane] = FIRST
            else:
                step_type[time, lane] = LAST if generator.random() < end else MID
    time, lane = np.indices((length, lanes))
    frame = np.stack([time % 256, lane, time // 256], -1).astype(np.uint8)
    terminated = (step_type == LAST) & (generator.random((length, lanes)) < 0.5)
    return History(
        step_type,
        generator.normal(size=(length, lanes)).astype(np.float32),
        np.where(terminated, 0.0, 1.0).astype(np.float32),
        np.stack([time, lane], -1).astype(np.float32),
        np.broadcast_to(frame[:, :, None, None], (length, lanes, 2, 2, 3)).copy(),
    )


def fill(history, count, slots):
    """The ring after the first ``count`` steps; one program for all counts."""
    lanes = history.reward.shape[1]

    def write(state, row):
        time, (step_type, reward, discount, action, frame) = row
        # The time step brings a whole stack; the ring keeps its newest frame only.
        observation = jnp.concatenate([jnp.full_like(frame, 255), frame], -1)
        after = replay.add(state, TimeStep(step_type, reward, discount, observation), action)
        return jax.tree.map(lambda old, new: jnp.where(time < count, new, old), state, after), None

    start = replay.init(slots, lanes, 2, 2)
    return jax.lax.scan(write, start, (jnp.arange(len(history.reward)), tuple(history)))[0]


@cache
def fill_program(slots, batched=False):
    function = partial(fill, slots=slots)
    return jax.jit(jax.vmap(function) if batched else function)


def filled(history, slots, count=None):
    return fill_program(slots)(jax.tree.map(jnp.asarray, history), len(history.reward) if count is None else count)


def times_in(observation):
    """[..., S] times and lanes of the frames of u8[...,2,2,3S]; all pixels of a frame must agree."""
    frames = observation.reshape(*observation.shape[:-1], -1, 3).astype(int)
    assert (frames == frames[..., :1, :1, :, :]).all()
    corner = frames[..., 0, 0, :, :]
    return corner[..., 0] + 256 * corner[..., 2], corner[..., 1]


def stack_times(history, time, lane, stack):
    """What the environment would have stacked: the frames since FIRST, the first one repeated before it."""
    begin = time
    while history.step_type[begin, lane] != FIRST:
        begin -= 1
    return [max(time - back, begin) for back in reversed(range(stack))]


def steps_on(history, time, lane, count, n_step, gamma):
    """Time, sum of rewards and discount that n steps from ``time`` end with, one by one."""
    reward, product, end = 0.0, 1.0, time
    while end - time < n_step and end + 1 < count and (end == time or history.step_type[end, lane] != LAST):
        reward += gamma ** (end - time) * product * history.reward[end + 1, lane]
        product *= history.discount[end + 1, lane]
        end += 1
    return end, reward, gamma ** (end - time - 1) * product


def check_batch(history, count, slots, stack, batch, n_step=1, gamma=1.0):
    seen, seen_lane = times_in(batch.observation)
    following, following_lane = times_in(batch.next_observation)
    for row in range(len(batch.reward)):
        lane, time = int(seen_lane[row, -1]), int(seen[row, -1])
        case = f"count {count}, time {time}, lane {lane}"
        assert max(count - slots, 0) <= time <= count - 2, case
        assert history.step_type[time, lane] != LAST, case
        expected = stack_times(history, time, lane, stack)
        assert min(expected) >= count - slots, case
        assert seen[row].tolist() == expected, case
        end, reward, discount = steps_on(history, time, lane, count, n_step, gamma)
        assert following[row].tolist() == stack_times(history, end, lane, stack), case
        assert {*seen_lane[row].tolist(), *following_lane[row].tolist()} == {lane}, case
        assert batch.action[row].tolist() == [time, lane], case
        rounding = 0.0 if n_step == 1 else 1e-5  # a single step copies numbers, several compute them
        assert batch.reward[row] == pytest.approx(reward, rel=0, abs=rounding), case
        assert batch.discount[row] == pytest.approx(discount, rel=0, abs=rounding), case


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize(("lanes", "slots", "stack"), SHAPES)
def test_every_sample_is_a_transition_that_happened(lanes, slots, stack, n_step):
    generator = np.random.default_rng([lanes, slots, stack])
    length = 5 * slots
    histories = [make_history(generator, length, lanes) for _ in range(SEQUENCES)]
    counts = generator.integers(stack + 1, length + 1, SEQUENCES)
    assert (counts > slots).mean() > 0.5  # most have wrapped, many several times
    states = fill_program(slots, batched=True)(jax.tree.map(lambda *x: np.stack(x), *histories), jnp.asarray(counts))
    keys = jax.random.split(jax.random.key(slots), SEQUENCES)
    options = {"n_step": n_step, "discount": 0.9}
    sample_each = jax.jit(jax.vmap(partial(replay.sample, batch_size=12, frame_stack=stack, **options)))
    batches = jax.tree.map(np.asarray, sample_each(states, keys))
    for index, history in enumerate(histories):
        check_batch(history, int(counts[index]), slots, stack, jax.tree.map(itemgetter(index), batches), n_step, 0.9)


def test_three_steps_by_hand():
    """Rewards 1, 2, 4, 8 at times 1 to 4, gamma 1/2: from 0 all three; the episode's end or the newest step cut it."""
    step_type = np.array([FIRST, MID, MID, LAST, FIRST], np.int32)[:, None]
    zeros = np.zeros((5, 1))
    reward = np.array([0, 1, 2, 4, 8], np.float32)[:, None]
    action, frame = np.arange(5.0)[:, None, None], np.zeros((5, 1, 2, 2, 3), np.uint8)
    state = filled(History(step_type, reward, (zeros + 1).astype(np.float32), action, frame), 8)
    batch = sample(state, jax.random.key(0), 200, 1, 3, 0.5)
    found = {time: values for time, *values in zip(batch.action[:, 0].tolist(), batch.reward.tolist(),
                                                   batch.discount.tolist(), strict=True)}
    assert found == {0.0: [3.0, 0.25], 1.0: [4.0, 0.5], 2.0: [4.0, 1.0]}


def test_a_ring_of_mostly_ends_never_starts_a_transition_at_one():
    # FIRST, LAST, FIRST, LAST, ...: half the slots start nothing, so all of a row's draws are often LAST.
    lanes, slots, stack = 1, 5, 3
    for count in (8, 9):
        history = make_history(np.random.default_rng(0), count, lanes, end=1.0)
        state = filled(history, slots)
        batch = sample(state, jax.random.key(count), 20_000, stack)
        check_batch(history, count, slots, stack, jax.tree.map(lambda x: np.asarray(x)[:4000], batch))
        seen, lane = times_in(np.asarray(batch.observation))
        assert (history.step_type[seen[:, -1], lane[:, -1]] == FIRST).all()


@pytest.mark.parametrize("count", [30, 40, 41, 95])  # not full, just full, one over, wrapped twice
def test_sampling_is_uniform_over_the_valid_transitions(count):
    lanes, slots, stack, draws = 3, 40, 3, 60_000
    history = make_history(np.random.default_rng(7), count, lanes, end=0.08)
    # Ends weigh differently on the lanes, so that choosing a lane first and a time second would show.
    history.step_type[:, 0] = [FIRST, *[MID] * (count - 1)]
    batch = sample(filled(history, slots), jax.random.key(count), draws, stack)
    seen, lane = times_in(np.asarray(batch.observation))
    oldest = count - slots + stack - 1 if count > slots else 0
    valid = [(t, e) for e in range(lanes) for t in range(oldest, count - 1) if history.step_type[t, e] != LAST]
    counts = dict.fromkeys(valid, 0)
    for pair in zip(seen[:, -1].tolist(), lane[:, -1].tolist(), strict=True):
        counts[pair] += 1
    expected = draws / len(valid)
    chi2 = sum((n - expected) ** 2 / expected for n in counts.values())
    freedom = len(valid) - 1
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_equal_keys_sample_equal_batches():
    state = filled(make_history(np.random.default_rng(1), 20, 2), 12)
    one, two, other = (sample(state, jax.random.key(k), 64, 2).action for k in (3, 3, 4))
    np.testing.assert_array_equal(one, two)
    assert (one != other).any()


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
        np.testing.assert_array_equal(state.frame[time % slots], history.frame[time])


def expected_priors(history, count, queries, every, hold):
    """time, lane -> index of the answer that may be used, by walking forward."""
    lanes, start, answers = history.reward.shape[1], count - queries * every, {}
    for lane in range(lanes):
        answer = None
        for time in range(start, count):
            if (time - start) % every == 0:
                answer = (time - start) // every
            elif not hold or history.step_type[time, lane] == FIRST:
                answer = None
            if answer is not None:
                answers[time, lane] = answer
    return answers


@pytest.mark.parametrize("hold", [True, False])
@pytest.mark.parametrize(("queries", "every"), [(1, 1), (2, 3), (3, 2), (1, 7), (4, 2)])
def test_priors_reach_the_slots_they_answer(hold, queries, every):
    lanes, slots, length = 3, 9, 31
    attach = jax.jit(partial(replay.attach_prior, every=every, hold=hold))
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
        answers = expected_priors(history, count, queries, every, hold)
        for time in range(max(count - slots, 0), count):
            for lane in range(lanes):
                got = after.action[time % slots, lane], after.valid[time % slots, lane]
                if time < count - queries * every:
                    assert got[1] and (got[0] == 7.0).all()
                    continue
                answer = answers.get((time, lane))
                usable = answer is not None and valid[answer, lane]
                assert got[1] == usable, (count, time, lane)
                np.testing.assert_array_equal(got[0], action[answer, lane] if usable else [0.0, 0.0])
                held += usable and (time - count + queries * every) % every > 0
    assert (held > 0) == (hold and every > 1)


def test_a_sampled_transition_carries_the_prior_of_its_own_observation():
    lanes, slots, count = 2, 12, 29
    history = make_history(np.random.default_rng(5), count, lanes, end=0.2)
    answers = Prior(history.action[-10:] / 100.0, np.arange(20).reshape(10, 2) % 3 > 0)
    state = replay.attach_prior(filled(history, slots), answers, every=1, hold=False)
    batch = jax.tree.map(np.asarray, sample(state, jax.random.key(0), 512, 2))
    time, lane = batch.action.astype(int).T
    asked = time >= count - 10
    valid = asked & np.asarray(answers.valid)[np.where(asked, time - count + 10, 0), lane]
    assert 0 < valid.sum() < len(valid)
    np.testing.assert_array_equal(batch.prior.valid, valid)
    np.testing.assert_allclose(batch.prior.action, np.where(valid[:, None], batch.action / 100.0, 0.0), rtol=1e-6)


@pytest.mark.parametrize("count", [7, 10, 34])
def test_observations_of_every_stored_time(count):
    lanes, slots, stack = 2, 10, 3
    history = make_history(np.random.default_rng(9), count, lanes)
    oldest = max(count - slots, 0)
    time, lane = np.indices((count - oldest, lanes)).reshape(2, -1)
    time = time + oldest
    seen, seen_lane = times_in(np.asarray(replay.observations(filled(history, slots), time, lane, stack)))
    # Where the ring has lost an observation's older frames, the oldest one left stands in for them.
    expected = [
        [max(old, oldest) for old in stack_times(history, t, e, stack)] for t, e in zip(time, lane, strict=True)
    ]
    assert seen.tolist() == expected
    assert (seen_lane == lane[:, None]).all()


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


@pytest.mark.parametrize(("slots", "lanes", "image", "action_dim"), [(7, 3, 5, 2), (50, 1, 12, 6), (1, 1, 1, 1)])
def test_predicted_bytes_are_those_of_the_arrays(slots, lanes, image, action_dim):
    state = replay.init(slots, lanes, image, action_dim)
    real = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) - state.count.nbytes
    assert replay.nbytes(slots, lanes, image, action_dim) == real


@pytest.mark.parametrize(("transitions", "lanes", "stack"), [(1, 1, 1), (1, 1, 3), (100, 3, 3), (7, 16, 2)])
def test_a_full_ring_offers_at_least_the_transitions_asked_for(transitions, lanes, stack):
    slots = replay.capacity_in_slots(transitions, lanes, stack)
    oldest = stack - 1  # of the stored slots, the first with its whole history
    assert (slots - 1 - oldest) * lanes >= transitions
    assert (slots - 2 - oldest) * lanes < transitions + lanes  # and not many more
