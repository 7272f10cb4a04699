"""Eq. 4's regulariser by hand, its gradient, and the schedules of its weight. B batch, A action."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covr_jax.covr import guidance
from covr_jax.covr.guidance import guidance_loss, weight

fuzz = settings(max_examples=60, deadline=None, derandomize=True, database=None)

ACTION = np.array([[0.5, -0.5], [1.0, 0.0], [-1.0, 0.25], [0.0, 0.0]], np.float32)
PRIOR = np.array([[0.0, 0.5], [0.0, 0.0], [-1.0, 0.25], [1.0, 1.0]], np.float32)


def test_sum_over_the_action_and_mean_over_the_batch():
    # rows: 0.25 + 1, 1, 0, 2
    assert float(guidance_loss(ACTION, PRIOR, np.ones(4, bool))) == pytest.approx(4.25 / 4)


def test_invalid_rows_count_zero_but_stay_in_the_denominator():
    assert float(guidance_loss(ACTION, PRIOR, np.array([True, False, True, False]))) == pytest.approx(1.25 / 4)
    assert float(guidance_loss(ACTION, PRIOR, np.zeros(4, bool))) == 0.0


def test_gradient_by_hand_flows_to_the_policy_alone():
    valid = np.array([True, False, True, True])
    to_action, to_prior = jax.grad(guidance_loss, argnums=(0, 1))(ACTION, PRIOR, valid)
    np.testing.assert_allclose(to_action, [[0.25, -0.5], [0, 0], [0, 0], [-0.5, -0.5]])  # 2 (a_r - a_v) / B
    np.testing.assert_array_equal(to_prior, np.zeros((4, 2)))


@pytest.mark.parametrize("garbage", [np.nan, np.inf, -np.inf, 1e30])
def test_what_stands_in_an_invalid_row_does_not_leak(garbage):
    valid = np.array([True, True, False, False])
    dirty = PRIOR.copy()
    dirty[2:] = garbage
    value, gradient = jax.value_and_grad(guidance_loss)(ACTION, dirty, valid)
    expected_value, expected_gradient = jax.value_and_grad(guidance_loss)(ACTION, PRIOR, valid)
    assert float(value) == float(expected_value)
    np.testing.assert_array_equal(gradient, expected_gradient)


def test_gradient_through_a_squashed_policy_stays_clean():
    """A NaN behind a mask comes back as 0 * NaN if the mask sits after the square."""

    def loss(pre_tanh):
        return guidance_loss(jnp.tanh(pre_tanh), jnp.array([[jnp.nan], [0.5]]), jnp.array([False, True]))

    gradient = np.asarray(jax.grad(loss)(jnp.array([[0.3], [0.0]])))
    np.testing.assert_allclose(gradient, [[0.0], [-0.5]])


@fuzz
@given(seed=st.integers(0, 2**32 - 1), batch=st.sampled_from([1, 4, 33]))
def test_against_float64(seed, batch):
    rng = np.random.default_rng(seed)
    action, prior = rng.uniform(-1, 1, size=(2, batch, 3))
    valid = rng.random(batch) < 0.5
    expected = (np.square(action - prior).sum(-1) * valid).mean()
    got = guidance_loss(action, np.where(valid[:, None], prior, np.nan), valid)
    assert got.dtype == np.float32 and float(got) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_an_empty_batch_pulls_nowhere():
    assert float(guidance_loss(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0, bool))) == 0.0


def test_refuses_shapes_that_do_not_match():
    with pytest.raises(ValueError, match="expected action"):
        guidance_loss(ACTION, PRIOR[:, :1], np.ones(4, bool))
    with pytest.raises(ValueError, match="expected action"):
        guidance_loss(ACTION, PRIOR, np.ones((4, 1), bool))
    with pytest.raises(ValueError, match=r"^valid must be bool \[B\], got float32$"):
        guidance_loss(ACTION, PRIOR, np.full(4, 0.1, np.float32))


def test_weight_by_hand():
    assert float(weight("constant", 2.0, 10**6, 100)) == 2.0
    assert [float(weight("annealed", 2.0, t, 100)) for t in (0, 25, 50, 100, 1000)] == [2.0, 1.5, 1.0, 0.0, 0.0]


def test_weight_inside_a_compiled_update():
    annealed = jax.jit(lambda base, t: weight("annealed", base, t, 100_000))
    assert float(annealed(np.float32(1.0), np.int32(75_000))) == pytest.approx(0.25)


def test_weight_refuses_nonsense():
    with pytest.raises(ValueError, match="unknown guidance weight 'linear'"):
        weight("linear", 1.0, 0, 1)
    for base in (-1.0, np.inf, np.nan):
        with pytest.raises(ValueError, match=f"must not be negative or infinite, got {base}"):
            weight("constant", base, 0, 1)
    with pytest.raises(ValueError, match="anneal_steps"):
        weight("annealed", 1.0, 0, 0)


def test_the_mean_over_valid_rows_does_not_dilute():
    """Two of four rows valid, distances 4 and 2: (4 + 2) / 4 over the batch, (4 + 2) / 2 over the valid rows."""
    action = jnp.asarray([[2.0], [0.0], [1.0], [0.0]])
    prior = jnp.asarray([[0.0], [9.0], [1.0 - np.sqrt(2.0)], [jnp.nan]])
    valid = jnp.asarray([True, False, True, False])
    assert float(guidance.guidance_loss(action, prior, valid)) == pytest.approx(1.5)
    assert float(guidance.guidance_loss(action, prior, valid, "valid")) == pytest.approx(3.0)
    assert float(guidance.effective_share(valid)) == 0.5
    assert float(guidance.effective_share(valid, "valid")) == 1.0
    nobody = jnp.zeros(4, bool)
    assert float(guidance.guidance_loss(action, prior, nobody, "valid")) == 0.0
    assert float(guidance.effective_share(nobody, "valid")) == 0.0
    with pytest.raises(ValueError, match="unknown mean 'median'"):
        guidance.guidance_loss(action, prior, valid, "median")
