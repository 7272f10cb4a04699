"""g_t: whole episodes, and episodes read out of a window of the replay. T time, E envs."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covr_jax.covr.returns import episode_returns, returns_to_go

FIRST, MID, LAST = 0, 1, 2
fuzz = settings(max_examples=60, deadline=None, derandomize=True, database=None)
compiled_returns = jax.jit(episode_returns)


def oracle(reward, step_type, discount, last_value=None):
    """float64, forwards, straight from the definition."""
    steps, lanes = reward.shape
    returns, complete = np.zeros((steps, lanes)), np.zeros((steps, lanes), bool)
    for lane in range(lanes):
        for t in range(steps):
            if step_type[t, lane] == LAST:
                continue
            total, factor = 0.0, 1.0
            for s in range(t + 1, steps):
                if step_type[s, lane] == FIRST:
                    break
                total += factor * float(reward[s, lane])
                factor *= discount
                if step_type[s, lane] == LAST:
                    total += 0.0 if last_value is None else factor * float(last_value[s, lane])
                    returns[t, lane], complete[t, lane] = total, True
                    break
    return returns, complete


def test_returns_to_go_by_hand():
    # 3; 2 + 0.5 * 3; 1 + 0.5 * 3.5
    np.testing.assert_array_equal(returns_to_go(np.array([1.0, 2.0, 3.0]), 0.5), [2.75, 3.5, 3.0])


@pytest.mark.parametrize(("discount", "expected"), [(0.0, [1, 2, 3]), (1.0, [6, 5, 3])])
def test_returns_to_go_at_the_ends_of_the_discount(discount, expected):
    np.testing.assert_array_equal(returns_to_go(np.array([1.0, 2.0, 3.0]), discount), expected)


def test_returns_to_go_of_nothing_and_of_one_step():
    assert returns_to_go(np.zeros(0), 0.9).shape == (0,)
    np.testing.assert_array_equal(returns_to_go(np.array([-4.0]), 0.9), [-4.0])


def test_returns_to_go_against_float64():
    reward = np.random.default_rng(0).normal(size=1000)
    expected = np.zeros(1000)
    following = 0.0
    for t in reversed(range(1000)):
        expected[t] = following = reward[t] + 0.99 * following
    got = returns_to_go(reward, 0.99)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
    lanes = returns_to_go(np.stack([reward, 2 * reward], axis=1), 0.99)
    np.testing.assert_allclose(lanes, np.stack([expected, 2 * expected], axis=1), rtol=2e-5, atol=4e-5)


def test_episode_returns_by_hand():
    #                    a whole episode              then one that is still running
    step_type = np.array([[FIRST, MID, MID, LAST, FIRST, MID, MID]]).T
    reward = np.array([[0.0, 1.0, 2.0, 4.0, 99.0, 8.0, 9.0]]).T
    returns, complete = episode_returns(reward, step_type, 0.5)
    # 1 + 0.5*2 + 0.25*4; 2 + 0.5*4; 4; LAST acts no more; the second episode has no terminal step yet
    np.testing.assert_array_equal(returns[:, 0], [3, 4, 4, 0, 0, 0, 0])
    np.testing.assert_array_equal(complete[:, 0], [True, True, True, False, False, False, False])


def test_the_reward_that_came_with_a_time_step_belongs_to_the_action_before_it():
    returns, _ = episode_returns(np.array([[7.0], [5.0]]), np.array([[FIRST], [LAST]]), 0.9)
    assert float(returns[0, 0]) == 5.0


def test_a_window_that_opens_in_mid_episode():
    returns, complete = episode_returns(np.array([[5.0], [1.0], [2.0]]), np.array([[MID], [MID], [LAST]]), 0.5)
    np.testing.assert_array_equal(returns[:, 0], [2, 2, 0])
    np.testing.assert_array_equal(complete[:, 0], [True, True, False])


def test_an_episode_that_a_reset_interrupted_stays_incomplete():
    step_type = np.array([[FIRST], [MID], [FIRST], [LAST]])
    returns, complete = episode_returns(np.array([[0.0], [5.0], [0.0], [3.0]]), step_type, 1.0)
    np.testing.assert_array_equal(complete[:, 0], [False, False, True, False])
    np.testing.assert_array_equal(returns[:, 0], [0, 0, 3, 0])


def test_lanes_do_not_touch_and_a_running_lane_may_hold_anything():
    step_type = np.array([[FIRST, FIRST], [LAST, MID], [FIRST, MID]])
    reward = np.array([[0.0, 0.0], [2.0, np.nan], [0.0, np.nan]])
    returns, complete = episode_returns(reward, step_type, 0.9)
    np.testing.assert_array_equal(returns, [[2, 0], [0, 0], [0, 0]])
    np.testing.assert_array_equal(complete, [[True, False], [False, False], [False, False]])


def test_bootstrapping_adds_the_discounted_value_of_the_last_observation():
    step_type = np.array([[FIRST], [MID], [LAST]])
    reward, value = np.array([[0.0], [1.0], [2.0]]), np.array([[50.0], [60.0], [8.0]])
    returns, _ = episode_returns(reward, step_type, 0.5, last_value=value)
    np.testing.assert_array_equal(returns[:, 0], [1 + 0.5 * 2 + 0.25 * 8, 2 + 0.5 * 8, 0])


def test_agrees_with_returns_to_go_on_one_episode():
    reward = np.random.default_rng(1).normal(size=(51, 1))
    step_type = np.full((51, 1), MID)
    step_type[0], step_type[-1] = FIRST, LAST
    returns, complete = episode_returns(reward, step_type, 0.97)
    assert complete[:-1].all()
    np.testing.assert_array_equal(returns[:-1, 0], returns_to_go(reward[1:, 0], 0.97))


@fuzz
@given(
    seed=st.integers(0, 2**32 - 1),
    discount=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    steps=st.sampled_from([1, 2, 9, 30]),
)
def test_any_sequence_of_step_types_against_float64(seed, discount, steps):
    rng = np.random.default_rng(seed)
    step_type = rng.choice([FIRST, MID, MID, MID, LAST], size=(steps, 3))
    reward, value = rng.normal(size=(2, steps, 3))
    for last_value in (None, value):
        returns, complete = compiled_returns(reward, step_type, discount, last_value=last_value)
        expected, expected_complete = oracle(reward, step_type, discount, last_value)
        np.testing.assert_array_equal(complete, expected_complete)
        np.testing.assert_allclose(returns, expected, rtol=1e-5, atol=1e-5)


def test_jits_with_a_traced_discount_and_traces_once():
    traces = []

    @jax.jit
    def compiled(reward, step_type, discount):
        traces.append(1)
        return episode_returns(reward, step_type, discount)

    reward, step_type = np.array([[0.0], [3.0], [4.0]], np.float32), np.array([[FIRST], [MID], [LAST]], np.int32)
    assert float(compiled(reward, step_type, np.float32(0.5))[0][0, 0]) == 5.0
    assert float(compiled(reward, step_type, np.float32(1.0))[0][0, 0]) == 7.0
    assert len(traces) == 1


@pytest.mark.parametrize("discount", [-0.1, 1.01, float("nan")])
def test_refuses_a_discount_that_is_none(discount):
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\]"):
        returns_to_go(np.ones(3), discount)
    with pytest.raises(ValueError, match=r"discount must lie in \[0, 1\]"):
        episode_returns(np.ones((3, 1)), np.ones((3, 1), int), discount)


def test_refuses_shapes_that_differ():
    with pytest.raises(ValueError, match="share one shape"):
        episode_returns(np.ones((3, 2)), np.ones((3, 1), int), 0.9)
    with pytest.raises(ValueError, match="share one shape"):
        episode_returns(np.ones(3), np.ones(3, int), 0.9)
    with pytest.raises(ValueError, match="time axis"):
        returns_to_go(1.0, 0.9)
