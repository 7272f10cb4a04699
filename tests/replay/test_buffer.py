"""Sampling from the ring against a plain model of all that happened. T slots, E lanes, S stack, K answers."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.types import Prior, StepType
from tests.support.histories import (
    FIRST,
    LAST,
    MID,
    History,
    check_batch,
    check_batches,
    fill_program,
    filled,
    make_histories,
    make_history,
    times_in,
    usable_priors,
)

SEQUENCES = 2_500  # random histories per shape
SHAPES = [(1, 5, 3, 2, 2), (3, 7, 2, 3, 1), (2, 9, 3, 2, 3), (1, 12, 1, 1, 7)]  # E, T, S, K, steps per answer

sample = jax.jit(replay.sample, static_argnums=(2, 3, 4, 5))


CASES = [(*shape, n_step) for shape in SHAPES for n_step in (1, 3)]
FIRST_TIER = (CASES[2], CASES[7])


@pytest.mark.parametrize(
    ("lanes", "slots", "stack", "queries", "every", "n_step"),
    [pytest.param(*case, marks=[] if case in FIRST_TIER else pytest.mark.slow) for case in CASES],
)
def test_every_sample_is_a_transition_that_happened(lanes, slots, stack, queries, every, n_step):
    """10,000 random pasts per n_step, over the ring's seam and episodes' ends, with answers of a VLM attached."""
    generator = np.random.default_rng([lanes, slots, stack])
    length = 5 * slots
    history = make_histories(generator, SEQUENCES, length, lanes)
    counts = generator.integers(max(stack + 1, queries * every), length + 1, SEQUENCES)
    assert (counts > slots).mean() > 0.5  # most have wrapped, many several times
    states = fill_program(slots, batched=True)(jax.tree.map(jnp.asarray, history), jnp.asarray(counts))
    answers = Prior(
        generator.uniform(0.1, 1.0, (SEQUENCES, queries, lanes, 2)).astype(np.float32),
        generator.random((SEQUENCES, queries, lanes)) < 0.8,
    )
    hold = n_step == 1
    attach_each = jax.jit(jax.vmap(partial(replay.set_prior, every=every, hold=hold)))
    keys = jax.random.split(jax.random.key(slots), SEQUENCES)
    options = {"n_step": n_step, "discount": 0.9}
    sample_each = jax.jit(jax.vmap(partial(replay.sample, batch_size=12, frame_stack=stack, **options)))
    batch = jax.tree.map(np.asarray, sample_each(attach_each(states, answers), keys))
    index = check_batches(history, counts, slots, stack, batch, n_step, 0.9)
    usable, answer = (values[index] for values in usable_priors(history, counts, answers.valid, every, hold))
    expected = answers.action[index[0], answer, index[2]]
    np.testing.assert_array_equal(batch.prior.valid, usable)
    np.testing.assert_array_equal(batch.prior.action, np.where(usable[..., None], expected, 0.0))
    assert 0.05 < usable.mean() < 0.95


def test_three_steps_by_hand():
    """Rewards 1, 2, 4, 8 at times 1 to 4, gamma 1/2: from 0 all three; the episode's end or the newest step cut it."""
    step_type = np.array([FIRST, MID, MID, LAST, FIRST], np.int32)[:, None]
    zeros = np.zeros((5, 1))
    reward = np.array([0, 1, 2, 4, 8], np.float32)[:, None]
    action, frame = np.tile(np.arange(5.0)[:, None, None], 2), np.zeros((5, 1, 2, 2, 3), np.uint8)
    state = filled(History(step_type, reward, (zeros + 1).astype(np.float32), action, frame), 8)
    batch = sample(state, jax.random.key(0), 200, 1, 3, 0.5)
    found = {
        time: values
        for time, *values in zip(
            batch.action[:, 0].tolist(), batch.reward.tolist(), batch.discount.tolist(), strict=True
        )
    }
    assert found == {0.0: [3.0, 0.25], 1.0: [4.0, 0.5], 2.0: [4.0, 1.0]}


def test_a_start_without_an_end_before_it_cuts_the_episode():
    """Env 1 begins anew at time 2: nothing starts from time 1 there, and the cut is counted once, when it is seen."""
    types = np.array([[FIRST, FIRST], [MID, MID], [MID, FIRST], [LAST, MID], [FIRST, MID]], np.int32)
    zeros, frame = np.zeros((5, 2)), np.zeros((5, 2, 2, 2, 3), np.uint8)
    history = History(types, zeros, zeros + 1.0, np.tile(np.arange(10.0).reshape(5, 2, 1), 2), frame)
    two, state = (filled(History(*(part[:n] for part in history)), 8) for n in (2, 5))
    assert state.step_type[:5].T.tolist() == [[FIRST, MID, MID, LAST, FIRST], [FIRST, StepType.CUT, FIRST, MID, MID]]
    assert two.step_type[:2].T.tolist() == [[FIRST, MID]] * 2
    assert [int(replay.count_cut(state, start)) for start in (0, 1, 2)] == [1, 1, 0]
    batch = sample(state, jax.random.key(0), 200, 1)
    assert set(batch.action.ravel().tolist()) == {0.0, 2.0, 4.0, 1.0, 5.0, 7.0}


def test_a_ring_of_mostly_ends_never_starts_a_transition_at_one():
    # FIRST, LAST, FIRST, LAST, ...: half the slots start nothing, so all of a row's draws are often LAST.
    lanes, slots, stack = 1, 5, 3
    for count in (8, 9):
        history = make_history(np.random.default_rng(0), count, lanes, end=1.0)
        state = filled(history, slots)
        batch = sample(state, jax.random.key(count), 20_000, stack)
        check_batch(history, count, slots, stack, jax.tree.map(lambda x: np.asarray(x)[:4000], batch))
        seen, env_id = times_in(np.asarray(batch.observation))
        assert (history.step_type[seen[:, -1], env_id[:, -1]] == FIRST).all()


@pytest.mark.parametrize("count", [30, 40, 41, 95])  # not full, just full, one over, wrapped twice
def test_sampling_is_uniform_over_the_valid_transitions(count):
    lanes, slots, stack, draws = 3, 40, 3, 60_000
    history = make_history(np.random.default_rng(7), count, lanes, end=0.08)
    # Ends weigh differently on the lanes, so that choosing a lane first and a time second would show.
    history.step_type[:, 0] = [FIRST, *[MID] * (count - 1)]
    batch = sample(filled(history, slots), jax.random.key(count), draws, stack)
    seen, env_id = times_in(np.asarray(batch.observation))
    oldest = count - slots + stack - 1 if count > slots else 0
    valid = [(t, e) for e in range(lanes) for t in range(oldest, count - 1) if history.step_type[t, e] != LAST]
    counts = dict.fromkeys(valid, 0)
    for pair in zip(seen[:, -1].tolist(), env_id[:, -1].tolist(), strict=True):
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
