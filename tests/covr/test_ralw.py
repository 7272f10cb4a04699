"""Eq. 6's weights by hand, against float64, and at their edges. N samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covr_jax.covr import ralw
from covr_jax.covr.ralw import KINDS, loss_weights, normalize_returns

fuzz = settings(max_examples=150, deadline=None, derandomize=True, database=None)
BOUND = float(np.float32(1e30))
finite = st.floats(-BOUND, BOUND, width=32, allow_subnormal=False)
returns_vectors = (
    st.sampled_from([1, 2, 20])
    .flatmap(lambda n: st.lists(st.one_of(finite, st.sampled_from([0.0, 1.0, -1e30, 1e30])), min_size=n, max_size=n))
    .map(lambda values: np.array(values, np.float32))
)
compiled = jax.jit(lambda returns: [(normalize_returns(returns, k), loss_weights(returns, k)) for k in KINDS])


def test_minmax_by_hand():
    returns = np.array([10.0, 20.0, 25.0, 30.0])
    np.testing.assert_allclose(normalize_returns(returns), [-1.0, 0.0, 0.5, 1.0], atol=1e-6)
    np.testing.assert_allclose(loss_weights(returns), [0.0, 0.0, 0.5, 1.0], atol=1e-6)


def test_maxabs_by_hand():
    returns = np.array([-4.0, 0.0, 1.0, 2.0])
    np.testing.assert_allclose(normalize_returns(returns, "maxabs"), [-1.0, 0.0, 0.25, 0.5])
    np.testing.assert_allclose(loss_weights(returns, "maxabs"), [0.0, 0.0, 0.25, 0.5])


@pytest.mark.parametrize("shift", [0.0, 300.0, -300.0])
def test_against_float64(shift):
    returns = (np.random.default_rng(0).normal(size=400) + shift).astype(np.float32)
    exact = returns.astype(np.float64)
    expected = 2 * (exact - exact.min()) / (exact.max() - exact.min()) - 1
    got = normalize_returns(returns)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=1e-6)
    np.testing.assert_allclose(loss_weights(returns), np.maximum(expected, 0), atol=1e-6)
    np.testing.assert_allclose(normalize_returns(returns, "maxabs"), exact / np.abs(exact).max(), atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("returns", [[3.0], [0.0, 0.0], [-0.1] * 9, [1e30] * 3, [3e38] * 2])
def test_equal_returns_all_count_fully(kind, returns):
    np.testing.assert_array_equal(normalize_returns(np.array(returns), kind), np.ones(len(returns)))
    np.testing.assert_array_equal(loss_weights(np.array(returns), kind), np.ones(len(returns)))


def test_ties_get_the_same_weight_and_the_extremes_hit_the_ends():
    got = np.asarray(normalize_returns(np.array([0.1, 0.7, 0.7, 0.3, 0.1], np.float32)))
    assert got[0] == got[4] == -1.0
    assert got[1] == got[2] == pytest.approx(1.0, abs=1e-6)


def test_the_whole_range_of_float32():
    np.testing.assert_allclose(normalize_returns(np.array([-3e38, 0.0, 3e38], np.float32)), [-1, 0, 1], atol=1e-6)
    np.testing.assert_allclose(loss_weights(np.array([-3e38, 0.0, 3e38], np.float32), "maxabs"), [0, 0, 1], atol=1e-6)


def test_nothing_and_nonsense():
    assert loss_weights(np.zeros(0)).shape == (0,)
    with pytest.raises(ValueError, match="unknown normalisation 'zscore'"):
        normalize_returns(np.arange(3.0), "zscore")
    with pytest.raises(ValueError, match="vector"):
        loss_weights(np.ones((2, 2)))
    with pytest.raises(ValueError, match=r"^expected finite numbers, got nan$"):
        loss_weights(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=r"^expected finite numbers, got inf$"):
        ralw.effective_sample_size(np.array([1.0, np.inf]))
    with pytest.raises(ValueError, match="vector"):
        ralw.effective_sample_size(np.ones((2, 2)))


@fuzz
@given(returns=returns_vectors)
def test_any_returns_give_weights_in_the_unit_interval(returns):
    for normalised, weights in compiled(returns):
        normalised, weights = np.asarray(normalised), np.asarray(weights)
        assert np.isfinite(normalised).all() and (np.abs(normalised) <= 1.0).all()
        assert ((weights >= 0.0) & (weights <= 1.0)).all()
        np.testing.assert_array_equal(weights, np.maximum(normalised, 0.0))
        order = np.argsort(returns, kind="stable")
        assert (np.diff(normalised[order]) >= 0).all(), "a higher return never counts less"
    assert float(compiled(returns)[0][1].max()) == pytest.approx(1.0, abs=1e-6)


def test_ranks_by_hand():
    """Of 10, 30, 30, 1000 the ranks are 0, 1.5, 1.5, 3 of 3: -1, 0, 0, 1. One outlier takes no weight from others."""
    np.testing.assert_allclose(ralw.normalize_returns([30.0, 10.0, 1000.0, 30.0], "rank"), [0, -1, 1, 0], atol=1e-6)
    np.testing.assert_allclose(ralw.loss_weights(jnp.arange(5.0) ** 9, "rank"), [0, 0, 0, 0.5, 1], atol=1e-6)
    np.testing.assert_array_equal(ralw.loss_weights([2.0, 2.0], "rank"), [1, 1])
    np.testing.assert_array_equal(ralw.loss_weights([5.0], "rank"), [1])


def test_effective_sample_size_by_hand():
    """Weights 1, 1, 0 amount to two samples; 1 and 0.5 to 2.25 / 1.25; none to 0."""
    for weights, expected in (([1, 1, 0], 2.0), ([1, 0.5], 1.8), ([0, 0], 0.0), ([], 0.0)):
        assert float(ralw.effective_sample_size(jnp.asarray(weights, jnp.float32))) == pytest.approx(expected)
