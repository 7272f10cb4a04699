"""Random pasts, the ring that saw them, and a plain model of what may be read from it.

Q histories, N steps each, T slots, E lanes, S stack; frames spell their own time and lane. The model knows nothing of
rings: it looks everything up in the whole past, of which the newest T of ``count`` steps are stored.
"""

from __future__ import annotations

from functools import cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import replay
from covr_jax.types import StepType, TimeStep

FIRST, MID, LAST = StepType.FIRST, StepType.MID, StepType.LAST


class History(NamedTuple):
    """Everything that ever happened, which the ring may forget. Leading axes [Q,N,E] or, of one history, [N,E]."""

    step_type: np.ndarray
    reward: np.ndarray
    discount: np.ndarray  # 0 where an episode terminated, 1 where it was cut and elsewhere
    action: np.ndarray  # [...,2] = (time, lane)
    frame: np.ndarray  # u8[...,2,2,3] = (time % 256, lane, time // 256)


def make_histories(generator, number, length, lanes, end=0.3):
    """Episodes that end with probability ``end`` per step, half of them by termination."""
    ends = generator.random((length, number, lanes)) < end
    step_type = np.zeros((length, number, lanes), np.int32)
    for time in range(1, length):
        step_type[time] = np.where(step_type[time - 1] == LAST, FIRST, np.where(ends[time], LAST, MID))
    step_type = step_type.swapaxes(0, 1)
    time, env_id = np.indices((length, lanes))
    frame = np.stack([time % 256, env_id, time // 256], -1).astype(np.uint8)[:, :, None, None]
    terminated = (step_type == LAST) & (generator.random(step_type.shape) < 0.5)
    return History(
        step_type,
        generator.normal(size=step_type.shape).astype(np.float32),
        np.where(terminated, 0.0, 1.0).astype(np.float32),
        np.broadcast_to(np.stack([time, env_id], -1).astype(np.float32), (*step_type.shape, 2)),
        np.broadcast_to(frame, (*step_type.shape, 2, 2, 3)),
    )


def make_history(generator, length, lanes, end=0.3):
    return History(*(np.array(values[0]) for values in make_histories(generator, 1, length, lanes, end)))


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


def beginnings(step_type):
    """Time i64[Q,N,E] at which the episode of each step began."""
    time = np.arange(step_type.shape[1])[None, :, None]
    return np.maximum.accumulate(np.where(step_type == FIRST, time, 0), axis=1)


def stacks(step_type, stack):
    """Times i64[Q,N,E,S] that the environment stacked: frames since FIRST, the first one repeated before it."""
    time = np.arange(step_type.shape[1])[None, :, None, None]
    return np.maximum(time - np.arange(stack)[::-1], beginnings(step_type)[..., None])


def steps_on(history, counts, n_step, gamma):
    """For each [Q,N,E]: time that n steps from there end at, sum of rewards and discount on the way."""
    number, length, _ = history.reward.shape
    end = np.broadcast_to(np.arange(length)[None, :, None], history.reward.shape).copy()
    reward, product = np.zeros(end.shape), np.ones(end.shape)

    def at(values, time):
        return np.take_along_axis(values, np.minimum(time, length - 1), axis=1)

    for step in range(n_step):
        onward = (end + 1 < np.reshape(counts, (number, 1, 1))) & ((step == 0) | (at(history.step_type, end) != LAST))
        end = np.where(onward, end + 1, end)
        reward += np.where(onward, gamma**step * product * at(history.reward, end), 0.0)
        product = np.where(onward, product * at(history.discount, end), product)
    taken = end - np.arange(length)[None, :, None]
    return end, reward, gamma ** (taken - 1.0) * product


def check_batch(history, count, slots, stack, batch):
    """The same for one batch [B] of one history."""
    check_batches(
        *jax.tree.map(lambda x: np.asarray(x)[None], (history, count)),
        slots,
        stack,
        jax.tree.map(lambda x: np.asarray(x)[None], batch),
    )


def check_batches(history, counts, slots, stack, batch, n_step=1, gamma=1.0):
    """Every row of the batches [Q,B] is a transition that happened, whole and still stored."""
    seen, seen_lane = times_in(batch.observation)
    following, following_lane = times_in(batch.next_observation)
    time, env_id = seen[..., -1], seen_lane[..., -1]
    index = (np.arange(len(time))[:, None], time, env_id)
    counts = np.reshape(counts, (-1, 1))
    assert (time >= counts - slots).all() and (time <= counts - 2).all()
    assert (history.step_type[index] != LAST).all()
    stacked = stacks(history.step_type, stack)
    assert (stacked[index] >= counts[..., None] - slots).all()
    np.testing.assert_array_equal(seen, stacked[index])
    end, reward, discount = (values[index] for values in steps_on(history, counts, n_step, gamma))
    np.testing.assert_array_equal(following, stacked[index[0], end, env_id])
    assert (seen_lane == env_id[..., None]).all() and (following_lane == env_id[..., None]).all()
    np.testing.assert_array_equal(batch.action, np.stack([time, env_id], -1))
    rounding = 0.0 if n_step == 1 else 1e-5  # a single step copies numbers, several compute them
    np.testing.assert_allclose(batch.reward, reward, rtol=0, atol=rounding)
    np.testing.assert_allclose(batch.discount, discount, rtol=0, atol=rounding)
    return index


def usable_priors(history, counts, valid, every, hold):
    """Which answer bool, i64[Q,N,E] may guide which step: the newest asked, of the same episode, if it was valid.

    ``valid`` bool[Q,K,E]: answers to the steps count - K * every, ... in steps of ``every``.
    """
    number, length, _ = history.reward.shape
    time = np.arange(length)[None, :, None]
    since = time - (np.reshape(counts, (number, 1, 1)) - valid.shape[1] * every)
    answer = np.clip(since // every, 0, valid.shape[1] - 1)
    asked_at = time - since % every
    same_episode = beginnings(history.step_type) <= asked_at
    usable = (since >= 0) & ((since % every == 0) | (hold & same_episode))
    answer = np.broadcast_to(answer, history.reward.shape)
    return usable & np.take_along_axis(valid, answer, axis=1), answer
