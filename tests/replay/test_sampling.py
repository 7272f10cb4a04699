"""Which transitions are drawn, against NumPy's own list of them. T slots, E lanes."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.config import ReplayConfig
from covr_jax.replay import sampling
from covr_jax.types import StepType, TimeStep
from tests.support.histories import make_history

LANES, SLOTS, STACK, DRAWS = 3, 17, 3, 40_000


def row(step_type):
    return TimeStep(step_type, np.zeros(LANES), np.ones(LANES), np.zeros((LANES, 2, 2, 3), np.uint8))


def ring(count, slots=SLOTS):
    history = make_history(np.random.default_rng(7), count, LANES, end=0.2)
    state = replay.init(slots, LANES, 2, 1)
    for time in range(count):
        state = replay.add(state, row(history.step_type[time]), np.zeros((LANES, 1)))
    return state, history


def allowed(history, count, slots=SLOTS):
    """Places of the transitions that may be drawn, (time, lane)."""
    oldest = max(count - slots, 0) + (STACK - 1 if count > slots else 0)
    return [(t, e) for t in range(oldest, count - 1) for e in range(LANES) if history.step_type[t, e] != StepType.LAST]


def frequencies(sampler, state, updates=0, number=DRAWS):
    indices = jax.jit(sampler, static_argnums=(2, 3))(state, jax.random.key(0), number, STACK, updates)
    place, count = np.unique(np.stack([indices.time, indices.env_id], 1), axis=0, return_counts=True)
    return {tuple(map(int, p)): c / number for p, c in zip(place, count, strict=True)}, indices


def assert_frequencies(got, expected):
    """Within five standard errors."""
    assert got.keys() <= {place for place, p in expected.items() if p > 0}
    for place, p in expected.items():
        assert abs(got.get(place, 0.0) - p) <= 5 * np.sqrt(p / DRAWS) + 1e-12, place


@pytest.mark.parametrize("count", [9, 17, 40])
def test_prioritised_draws_follow_the_priorities_and_weights_correct_for_them(count):
    state, history = ring(count)
    places = allowed(history, count)
    error = np.random.default_rng(1).uniform(0.1, 3.0, len(places)).astype(np.float32)
    place = tuple(jnp.asarray(column, jnp.int32) for column in np.array(places).T)
    state = sampling.set_priorities(state, place, -error)  # the sign of an error does not count
    mass = error**0.6
    expected = dict(zip(places, mass / mass.sum(), strict=True))
    got, indices = frequencies(sampling.prioritised(0.6, 0.4), state)
    assert_frequencies(got, expected)
    chances = [expected[int(t), int(e)] for t, e in zip(indices.time, indices.env_id, strict=True)]
    weight = (len(places) * np.array(chances)) ** -0.4
    np.testing.assert_allclose(indices.weight, weight / weight.max(), rtol=1e-4)
    # A transition that is stored next is as urgent as the worst one so far.
    state = replay.add(state, row(np.zeros(LANES)), np.zeros((LANES, 1)))
    assert float(state.priority[count % SLOTS, 0]) == pytest.approx(max(1.0, error.max()))


def test_small_errors_count_as_the_floor_and_lap_has_no_weights():
    """LAP: P ~ max(|error|^0.4, 1)."""
    state, history = ring(40)
    places = allowed(history, 40)
    error = np.random.default_rng(1).uniform(0.0, 4.0, len(places)).astype(np.float32)
    place = tuple(jnp.asarray(column, jnp.int32) for column in np.array(places).T)
    mass = np.maximum(error**0.4, 1.0)
    options = ReplayConfig(
        sampling="prioritised", priority_alpha=0.4, priority_beta=0.0, priority_floor=1.0, anneal_updates=0
    )
    got, indices = frequencies(sampling.make_sampler(options), sampling.set_priorities(state, place, error))
    assert_frequencies(got, dict(zip(places, mass / mass.sum(), strict=True)))
    np.testing.assert_array_equal(indices.weight, 1.0)


def test_priority_alpha_0_is_uniform():
    state, history = ring(40)
    state = state.replace(priority=jnp.asarray(np.random.default_rng(0).uniform(0, 9, (SLOTS, LANES)), jnp.float32))
    places = allowed(history, 40)
    got, indices = frequencies(sampling.prioritised(0.0, 0.4), state)
    assert_frequencies(got, dict.fromkeys(places, 1 / len(places)))
    np.testing.assert_allclose(indices.weight, 1.0, rtol=1e-5)


@pytest.mark.parametrize(("updates", "newest"), [(0, 12), (4, 7), (9, 4)])
def test_recent_draws_narrow_over_a_phase(updates, newest):
    """eta 0.9^(1/100), a phase of ten updates: stored 14 * 3, c_k = 42 * 0.9^k, never fewer than 12 transitions."""
    state, history = ring(40)
    sampler = sampling.recent(0.9 ** (1 / 100), 12, 10)
    got, _ = frequencies(sampler, state, updates)
    kept = max(42 * 0.9 ** (updates + 1), 12)
    # A LAST that is drawn five times in a row stands for a neighbour: compare the times alone.
    first = 39 - int(np.ceil(kept / LANES))
    assert min(time for time, _ in got) == first and max(time for time, _ in got) == 38
    assert set(got) == {place for place in allowed(history, 40) if place[0] >= first}
    assert 39 - first >= newest
    wide, _ = frequencies(sampler, state, updates + 10)  # the next phase begins anew
    assert wide.keys() == got.keys()


def test_a_share_of_the_batch_is_elite():
    state, history = ring(40)
    places = allowed(history, 40)
    uniform = dict.fromkeys(places, 1 / len(places))
    got, _ = frequencies(sampling.elite(0.8), state)
    assert_frequencies(got, uniform)  # nothing is marked yet
    marked = [places[3], places[11]]
    time, env_id = (jnp.asarray([*column, 5], jnp.int32) for column in np.array(marked).T)  # 5: overwritten since
    state = sampling.mark_elite(state, time, env_id)
    got, _ = frequencies(sampling.elite(0.8), state)
    assert_frequencies(got, {place: 0.2 / len(places) + 0.4 * (place in marked) for place in places})
    # What is stored later in the same slots is not marked.
    for _ in range(SLOTS):
        state = replay.add(state, row(np.full(LANES, StepType.MID)), np.zeros((LANES, 1)))
    assert not (np.asarray(state.priority) >= sampling.ELITE).any()


def test_the_config_names_the_draw():
    state, _ = ring(40)
    for name in ("uniform", "prioritised", "recent", "elite"):
        indices = sampling.make_sampler(ReplayConfig(sampling=name))(state, jax.random.key(1), 8, STACK, jnp.asarray(0))
        assert indices.time.shape == indices.env_id.shape == (8,)
        assert (indices.weight is not None) == (name == "prioritised")
    assert sampling.make_sampler(ReplayConfig()) is sampling.uniform


def test_what_has_no_mass_is_not_drawn_even_where_sums_round_up(monkeypatch):
    state, history = ring(17)
    heavy = allowed(history, 17)[4]
    state = sampling.set_priorities(
        state, tuple(jnp.asarray([number], jnp.int32) for number in heavy), jnp.asarray([9.0])
    )
    monkeypatch.setattr(
        sampling.jnp, "searchsorted", lambda below, points, side: jnp.full(points.shape, below.shape[0])
    )
    indices = sampling.prioritised(0.6, 0.4)(state, jax.random.key(0), 4, STACK, 0)  # the newest slot has no successor
    assert list(zip(indices.time.tolist(), indices.env_id.tolist(), strict=True)) == [heavy] * 4
    np.testing.assert_array_equal(indices.weight, 1.0)


def test_exponents_rise_linearly_to_one():
    found = [float(sampling.rising(0.4, jnp.int32(updates), 10)) for updates in (0, 5, 10, 99)]
    assert found == pytest.approx([0.4, 0.7, 1.0, 1.0])
    assert sampling.rising(0.4, jnp.int32(7), 0) == 0.4


def test_weights_and_windows_follow_the_risen_exponents():
    """At the end beta is 1, as if it had always been; eta is 1, so that the window is all that is stored."""
    state, history = ring(40)
    state = state.replace(priority=jnp.asarray(np.random.default_rng(0).uniform(1, 9, (SLOTS, LANES)), jnp.float32))
    key, updates = jax.random.key(0), jnp.int32(8)
    risen = sampling.prioritised(0.6, 0.4, anneal_updates=8)(state, key, 64, 1, updates)
    constant = sampling.prioritised(0.6, 1.0)(state, key, 64, 1, updates)
    np.testing.assert_allclose(risen.weight, constant.weight, rtol=1e-6)
    got, _ = frequencies(sampling.recent(0.9 ** (1 / 100), 12, 10, anneal_updates=8), state, 8)
    assert set(got) == set(allowed(history, 40))
