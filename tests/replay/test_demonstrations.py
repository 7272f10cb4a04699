"""Whole episodes out of a ring and into another one, against the whole past. T slots, E lanes, L steps, S stack."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.config import ReplayConfig
from covr_jax.replay import sampling
from covr_jax.replay.demonstrations import Plan
from covr_jax.replay.episodes import LeftOut, Stretch
from covr_jax.types import Episode, StepType, TimeStep
from tests.support.histories import (
    FIRST,
    LAST,
    MID,
    History,
    check_batches,
    filled,
    make_history,
    stacks,
    times_in,
)

OTHER = 100  # added to lanes and to actions of a run's own experience, to tell it from demonstrations
add = jax.jit(replay.add, donate_argnums=0)


def whole(history, count, slots):
    """(lane, first, last) of the episodes of which a ring of ``slots`` holds every step, in the order of their ends."""
    found = []
    for last, lane in np.argwhere(history.step_type[:count] == LAST):
        first = last
        while history.step_type[first, lane] != FIRST:
            first -= 1
        if first >= count - slots:
            found.append((lane, first, last))
    return found


@pytest.mark.parametrize(("lanes", "slots"), [(1, 9), (3, 17)])
def test_every_whole_episode_is_found_and_every_other_transition_is_counted(lanes, slots):
    for count in (slots - 3, slots, 2 * slots + 1, 70):
        history = make_history(np.random.default_rng([count, lanes]), 70, lanes, end=0.2)
        state = filled(history, slots, count)
        found, left_out = replay.find_episodes(state)
        assert [tuple(stretch) for stretch in found] == whole(history, count, slots)
        stored = history.step_type[max(count - slots, 0) : count - 1]  # the newest slot has no successor
        assert sum(last - first for _, first, last in found) + left_out.steps == (stored != LAST).sum()
        assert left_out.broken == 0


def test_what_is_no_whole_episode_by_hand():
    """Times 2 to 9 are stored. Lane 0: overwritten in part, whole, not at its end; lane 1: broken off, whole, whole."""
    types = np.array(
        [
            [FIRST, MID, MID, LAST, FIRST, LAST, FIRST, MID, MID, MID],
            [MID, LAST, FIRST, MID, MID, FIRST, MID, LAST, FIRST, LAST],
        ],
        np.int32,
    ).T
    zeros, frame = np.zeros((10, 2)), np.zeros((10, 2, 2, 2, 3), np.uint8)
    state = filled(History(types, zeros, zeros + 1.0, np.zeros((10, 2, 2)), frame), 8)
    found, left_out = replay.find_episodes(state)
    assert found == [Stretch(0, 4, 5), Stretch(1, 5, 7), Stretch(1, 8, 9)]
    assert left_out == LeftOut(overwritten=1, broken=1, unfinished=1, steps=1 + 2 + 3)
    found, left_out = replay.find_episodes(state, start=5)
    assert found == [Stretch(1, 5, 7), Stretch(1, 8, 9)] and left_out == LeftOut(unfinished=1, steps=3)


@pytest.mark.parametrize("stack", [1, 3])
def test_an_episode_is_what_the_environment_gave_byte_for_byte(stack):
    """Against what sampling reads of the same ring, which has wrapped, and the actions and rewards of the past."""
    lanes, slots, count = 2, 23, 61
    history = make_history(np.random.default_rng(3), count, lanes, end=0.15)
    state = filled(history, slots)
    found, _ = replay.find_episodes(state)
    assert len(found) > 3 and {stretch.env_id for stretch in found} == {0, 1}
    ends = set()
    for (lane, first, last), episode in zip(found, replay.read_episodes(state, found, stack), strict=True):
        time = np.arange(first, last + 1)
        expected = replay.observations(state, time, np.full(len(time), lane), stack)
        assert episode.observation.dtype == np.uint8
        np.testing.assert_array_equal(episode.observation, expected)
        seen, _ = times_in(episode.observation)
        np.testing.assert_array_equal(seen, stacks(history.step_type[None], stack)[0, time, lane])
        np.testing.assert_array_equal(episode.action, history.action[first:last, lane])
        np.testing.assert_array_equal(episode.reward, history.reward[first + 1 : last + 1, lane])
        assert episode.terminated == (history.discount[last, lane] == 0.0)
        ends.add(episode.terminated)
    assert ends == {False, True}


def test_episodes_are_distributed_newest_first_to_the_shortest_lane():
    # 4 to lane 0 (5 slots), 1 to lane 1 (2), 5 to lane 1 (8), 2 to lane 0 (8), 3 to lane 0 (12).
    steps = [3, 2, 5, 1, 4]
    assert replay.distribute(steps, 2, 12) == Plan([[0, 1, 4], [2, 3]], [0, 4], 12, 0)
    # With eleven slots the oldest does not fit, with seven neither do the two after it, though the shorter one would.
    assert replay.distribute(steps, 2, 11) == Plan([[1, 4], [2, 3]], [0, 0], 8, 1)
    assert replay.distribute(steps, 2, 7) == Plan([[4], [3]], [0, 3], 5, 3)
    assert replay.distribute(steps, 2, 4) == Plan([[], []], [0, 0], 0, 5)
    assert replay.distribute([2], 3, 4) == Plan([[0], [], []], [0, 3, 3], 3, 0)


def demonstrated(history, lanes, slots, stack):
    """Another ring, of ``lanes``, with the whole episodes of a past; and those that it took, by (lane, first, last)."""
    source = filled(history, len(history.reward))
    found, _ = replay.find_episodes(source)
    episodes = list(replay.read_episodes(source, found, stack))
    plan = replay.distribute([len(episode.reward) for episode in episodes], lanes, slots)
    state = replay.store_episodes(replay.init(slots, lanes, 2, 2), plan, episodes.__getitem__, add)
    assert int(state.count) == plan.slots
    return state, found[plan.left_out :], [episodes[index] for column in plan.columns for index in column]


def go_on(state, steps, lanes):
    """The ring after the run's own first steps, and their past."""
    own = make_history(np.random.default_rng(8), steps, lanes, end=0.2)
    frame = own.frame + np.array([0, OTHER, 0], np.uint8)
    for time in range(steps):
        timestep = TimeStep(own.step_type[time], own.reward[time], own.discount[time], frame[time])
        state = add(state, timestep, own.action[time] + np.float32([0, OTHER]))
    return state, own


@pytest.mark.parametrize("lanes", [1, 2, 5, 40])  # with 40, most lanes have no demonstration
def test_episodes_come_back_out_of_the_ring_as_they_went_in(lanes):
    history = make_history(np.random.default_rng(5), 60, 3, end=0.2)
    state, taken, episodes = demonstrated(history, lanes, 400, 2)
    assert len(taken) == len(whole(history, 60, 60)) > 12
    again, left_out = replay.find_episodes(state)
    assert left_out == LeftOut()
    back = list(replay.read_episodes(state, sorted(again, key=lambda s: (s.env_id, s.first)), 2))
    for one, other in zip(back, episodes, strict=True):
        for a, b in zip(one, other, strict=True):
            np.testing.assert_array_equal(a, b)
    went_on, _ = go_on(state, 3, lanes)
    assert int(replay.count_cut(went_on, 0)) == 0  # the last demonstrations have ended: nothing was broken off


@pytest.mark.parametrize(("lanes", "slots", "steps"), [(2, 99, 12), (7, 60, 12), (40, 60, 12), (3, 30, 25)])
@pytest.mark.parametrize("n_step", [1, 3])
def test_no_sample_joins_episodes_or_demonstrations_and_experience(lanes, slots, steps, n_step):
    """Every batch row is a transition of one of the two pasts, whole; and every one of them is drawn.

    In the last shape the run's own experience has overwritten a part of the demonstrations.
    """
    stack, gamma = 3, 0.9
    history = make_history(np.random.default_rng(6), 40, 3, end=0.25)
    state, taken, _ = demonstrated(history, lanes, slots, 1)
    began = int(state.count)
    state, own = go_on(state, steps, lanes)
    sampler = sampling.make_sampler(ReplayConfig(demonstrations="some"))
    options = {"n_step": n_step, "discount": gamma, "sampler": sampler}
    sample = jax.jit(partial(replay.sample, batch_size=10_000, frame_stack=stack, **options))
    batch = jax.tree.map(np.asarray, sample(state, jax.random.key(0)))
    is_own = batch.action[:, 1] >= OTHER
    drawn = {tuple(map(int, row)) for row in batch.action}

    def check(past, rows, shift):
        some = jax.tree.map(lambda x: x[rows][None], batch)
        seen, following = (
            image - np.tile(np.array([0, shift, 0], np.uint8), stack)
            for image in (some.observation, some.next_observation)
        )
        action = some.action - np.float32([0, shift])
        some = some._replace(observation=seen, next_observation=following, action=action)
        length = len(past.reward)
        each = jax.tree.map(lambda x: x[None], past)
        check_batches(each, np.array([length]), length, stack, some, n_step, gamma)

    check(history, ~is_own, 0)
    check(own, is_own, OTHER)
    expected = {
        (time, lane + OTHER) for time in range(steps - 1) for lane in range(lanes) if own.step_type[time, lane] != LAST
    }
    if began + steps <= slots:
        expected |= {(time, lane) for lane, first, last in taken for time in range(first, last)}
        assert drawn == expected
    else:
        assert expected <= drawn and not is_own.all()


def padded():
    """Five lanes, of which one has an episode of twelve steps; then five steps of a run, each lane from FIRST."""
    episode = Episode(np.zeros((13, 2, 2, 3), np.uint8), np.zeros((12, 2), np.float32), np.zeros(12, np.float32), False)
    plan = replay.distribute([12], 5, 30)
    state = replay.store_episodes(replay.init(30, 5, 2, 2), plan, [episode].__getitem__, add)
    for time in range(5):
        kind = np.full(5, FIRST if time == 0 else MID, np.int32)
        state = add(state, TimeStep(kind, np.zeros(5), np.ones(5), np.zeros((5, 2, 2, 3), np.uint8)), np.zeros((5, 2)))
    return state, [(t, 0) for t in range(12)] + [(t, e) for t in range(13, 17) for e in range(5)]


def test_draws_are_uniform_though_most_slots_start_nothing():
    state, places = padded()
    sampler, draws = jax.jit(sampling.uniform_between_gaps, static_argnums=(2, 3)), 32_000
    indices = sampler(state, jax.random.key(0), draws, 3, 0)
    counts = dict.fromkeys(places, 0)
    for pair in zip(indices.time.tolist(), indices.env_id.tolist(), strict=True):
        counts[pair] += 1  # KeyError: no transition starts there
    expected = draws / len(places)
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < 31 + 5 * np.sqrt(2 * 31)


@pytest.mark.parametrize("name", ["uniform", "prioritised", "recent", "elite"])
def test_every_sampler_passes_over_what_holds_nothing(name):
    """Also ERE's window where it lies between two episodes' ends: the latest transitions before stand in."""
    state, places = padded()
    config = ReplayConfig(sampling=name, demonstrations="some", recent_least=1, recent_eta=0.5, recent_phase=1)
    sampler = jax.jit(sampling.make_sampler(config), static_argnums=(2, 3))
    indices = sampler(state, jax.random.key(1), 4000, 3, jnp.int32(0))
    drawn = set(zip(indices.time.tolist(), indices.env_id.tolist(), strict=True))
    assert drawn == ({place for place in places if place[0] >= 15} if name == "recent" else set(places))
    ended = state.replace(step_type=state.step_type.at[14:].set(StepType.LAST))
    indices = sampler(ended, jax.random.key(1), 4000, 3, jnp.int32(0))
    drawn = set(zip(indices.time.tolist(), indices.env_id.tolist(), strict=True))
    assert drawn <= {place for place in places if place[0] < 14}
    assert name != "recent" or drawn == {(13, lane) for lane in range(5)}
