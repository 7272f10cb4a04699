"""Eq. 5 by hand, against float64, in both monotonicities and at its edges. N samples."""

import math

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from covr_jax.covr.eddf import KINDS, adaptive_threshold, dynamic_filter, exploration_degree, z_score

fuzz = settings(max_examples=150, deadline=None, derandomize=True, database=None)
BOUND = float(np.float32(1e30))
finite = st.floats(-BOUND, BOUND, width=32, allow_subnormal=False)
compiled_degree = jax.jit(exploration_degree, static_argnames=("action_dim", "kind"))
compiled_score, compiled_threshold = jax.jit(z_score), jax.jit(adaptive_threshold)
compiled_filter = jax.jit(dynamic_filter, static_argnames="min_keep")
returns_vectors = (
    st.sampled_from([1, 3, 20])
    .flatmap(
        lambda n: st.lists(
            st.one_of(finite, st.sampled_from([0.0, 1.0, 1e-30, -1e30, 1e30])),
            min_size=n,
            max_size=n,
        )
    )
    .map(lambda values: np.array(values, np.float32))
)


def sigmoid(x):
    return 1.0 / (1.0 + math.exp(-x))


def oracle_threshold(z, exploration):
    q1, median, q3 = np.percentile(np.asarray(z, np.float64), [25, 50, 75])
    return median + sigmoid(exploration) * (q3 - q1)


# -- z_score


def test_z_score_by_hand():
    # mean 5, population variance (9 + 1 + 1 + 1 + 0 + 0 + 4 + 16) / 8 = 4
    returns = np.array([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    np.testing.assert_allclose(z_score(returns), [-1.5, -0.5, -0.5, -0.5, 0, 0, 1, 2], atol=1e-6)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_z_score_against_float64(shift, scale):
    returns = ((np.random.default_rng(0).normal(size=500) + shift) * scale).astype(np.float32)
    exact = returns.astype(np.float64)
    expected = (exact - exact.mean()) / exact.std()
    got = z_score(returns)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("value", [0.0, 0.1, -7.3, 1e30, 3e38])
@pytest.mark.parametrize("size", [1, 3, 1001])
def test_equal_returns_score_exactly_zero(value, size):
    np.testing.assert_array_equal(z_score(np.full(size, value, np.float32)), np.zeros(size))


def test_z_score_survives_the_whole_range_of_float32():
    np.testing.assert_allclose(z_score(np.array([-3e38, 3e38], np.float32)), [-1, 1], rtol=1e-6)
    end = math.sqrt(1.5)
    np.testing.assert_allclose(z_score(np.array([-1e30, 0, 1e30], np.float32)), [-end, 0, end], rtol=1e-6)


def test_z_score_of_nothing():
    assert z_score(np.zeros(0)).shape == (0,)


# -- adaptive_threshold


def test_threshold_by_hand():
    z = np.array([0.0, 1.0, 2.0, 3.0, 4.0])  # median 2, quartiles 1 and 3
    assert float(adaptive_threshold(z, 0.0)) == 3.0  # 2 + 0.5 * 2
    assert float(adaptive_threshold(z, math.log(3.0))) == pytest.approx(3.5)  # sigmoid(ln 3) = 3/4
    # an even number: median 1.5, quartiles 0.75 and 2.25, whatever the order
    assert float(adaptive_threshold(np.array([3.0, 0.0, 2.0, 1.0]), 0.0)) == pytest.approx(1.5 + 0.5 * 1.5)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 101, 1000])
@pytest.mark.parametrize("exploration", [-5.0, -0.3, 0.0, 4.16])
def test_threshold_against_float64(size, exploration):
    z = np.random.default_rng(size).normal(size=size).astype(np.float32)
    assert float(adaptive_threshold(z, exploration)) == pytest.approx(oracle_threshold(z, exploration), abs=1e-6)


def test_threshold_rises_with_the_exploration_degree_within_its_range():
    z = np.random.default_rng(3).normal(size=200).astype(np.float32)
    taus = [float(adaptive_threshold(z, eps)) for eps in (-100, -6, -2, 0, 2, 6, 100)]
    assert taus == sorted(taus) and len(set(taus)) == 7
    q1, median, q3 = np.percentile(z, [25, 50, 75])
    assert taus[0] == pytest.approx(median, abs=1e-6)
    assert taus[-1] == pytest.approx(median + q3 - q1, abs=1e-6)


@pytest.mark.parametrize("size", [4, 7])
def test_threshold_of_ties_is_their_value_to_the_last_bit(size):
    values = np.random.default_rng(4).normal(size=200).astype(np.float32)
    ties = np.repeat(values[:, None], size, axis=1)
    np.testing.assert_array_equal(jax.vmap(adaptive_threshold, in_axes=(0, None))(ties, 1.0), values)


def test_threshold_of_nothing_is_refused():
    with pytest.raises(ValueError, match="N = 0"):
        adaptive_threshold(np.zeros(0), 0.0)


# -- exploration_degree


def test_exploration_degree_by_hand():
    assert float(exploration_degree(1.5, 2)) == -1.5
    assert float(exploration_degree(1.5, 2, "literal")) == 1.5
    # H_uniform = 2 ln 2, target -2: the uniform policy is at -4, the target at +4, halfway at 0
    assert float(exploration_degree(2 * math.log(2), 2, "normalised")) == pytest.approx(-4.0)
    assert float(exploration_degree(-2.0, 2, "normalised")) == pytest.approx(4.0)
    assert float(exploration_degree(math.log(2) - 1, 2, "normalised")) == pytest.approx(0.0, abs=1e-6)
    assert float(exploration_degree(9.0, 2, "progress", progress=0.75)) == pytest.approx(math.log(3.0), rel=1e-6)


@pytest.mark.parametrize("progress", [-0.5, 0.0, 0.5, 1.0, 2.0])
def test_progress_is_the_fraction_that_the_sigmoid_gives_back(progress):
    degree = float(exploration_degree(0.0, 1, "progress", progress=progress))
    assert math.isfinite(degree)
    assert sigmoid(degree) == pytest.approx(min(max(progress, 0.0), 1.0), abs=2e-6)


@pytest.mark.parametrize(("kind", "sign"), [("neg_entropy", -1), ("literal", 1), ("normalised", -1)])
def test_direction_of_each_reading(kind, sign):
    assert sign * (float(exploration_degree(1.0, 3, kind)) - float(exploration_degree(-1.0, 3, kind))) > 0


def test_exploration_degree_refuses_nonsense():
    with pytest.raises(ValueError, match="unknown exploration kind 'entropy'"):
        exploration_degree(0.0, 1, "entropy")
    with pytest.raises(ValueError, match="action_dim"):
        exploration_degree(0.0, 0)


# -- dynamic_filter


def test_filter_by_hand():
    # 0..9: z is linear in the return, so Eq. 5 cuts at 4.5 + 0.5 * 4.5 = 6.75
    np.testing.assert_array_equal(np.flatnonzero(dynamic_filter(np.arange(10.0), 0.0)), [7, 8, 9])


def test_filter_against_float64():
    returns = np.random.default_rng(5).gamma(2.0, size=999).astype(np.float32)
    exact = returns.astype(np.float64)
    z = (exact - exact.mean()) / exact.std()
    for exploration in (-4.0, 0.0, 3.0):
        np.testing.assert_array_equal(dynamic_filter(returns, exploration), z > oracle_threshold(z, exploration))


def test_fraction_kept_falls_as_the_policy_stops_exploring():
    """The paper's text, by the default reading; the printed formula alone does the opposite."""
    returns = np.random.default_rng(6).normal(size=2000)
    entropies = [4.16, 1.4, 0.0, -2.0, -6.0]

    def kept(kind):
        return [float(dynamic_filter(returns, exploration_degree(h, 6, kind)).mean()) for h in entropies]

    for kind in ("neg_entropy", "normalised"):
        assert kept(kind) == sorted(kept(kind), reverse=True)
        assert kept(kind)[0] > kept(kind)[-1]
    assert kept("literal") == sorted(kept("literal"))
    # a Gaussian has IQR 1.349 std, so the cut runs from the median (half) to 1.349 (9 %)
    assert kept("neg_entropy")[0] == pytest.approx(0.49, abs=0.02)
    assert kept("neg_entropy")[-1] == pytest.approx(0.09, abs=0.02)


@pytest.mark.parametrize("min_keep", [0, 3])
@pytest.mark.parametrize("returns", [[5.0], [0.1] * 7, [0.0] * 64, [1e30] * 3])
def test_equal_returns_keep_nothing(returns, min_keep):
    assert not dynamic_filter(np.array(returns), 0.0, min_keep).any()


def test_no_spread_in_the_middle_keeps_only_what_stands_out():
    # sparse reward: IQR 0, so tau is the median whatever the exploration, and the ties at it are not above it
    returns = np.array([0.1] * 29 + [0.7, 0.9])
    for exploration in (-5.0, 0.0, 5.0):
        np.testing.assert_array_equal(np.flatnonzero(dynamic_filter(returns, exploration)), [29, 30])


def test_nothing_above_the_threshold_falls_back_to_the_top():
    # left-skewed, as near a ceiling: median 9, quartiles 2.5 and 9, so tau is 12.25 in units of the return
    returns = np.array([0.0, 1.0, 2.0, 3.0, 9.0, 9.0, 9.0, 9.0, 9.0])
    assert not dynamic_filter(returns, 0.0).any()
    np.testing.assert_array_equal(np.flatnonzero(dynamic_filter(returns, 0.0, 7)), [2, 3, 4, 5, 6, 7, 8])
    # among equals the earlier one, and never more than asked for
    np.testing.assert_array_equal(np.flatnonzero(dynamic_filter(returns, 0.0, 2)), [4, 5])
    assert dynamic_filter(returns, 0.0, 100).all()


def test_the_fallback_keeps_at_least_five_percent():
    returns = np.concatenate([np.arange(200.0), np.full(201, 500.0)])  # tau is above 500: nothing is
    assert not dynamic_filter(returns, 5.0).any()
    assert int(dynamic_filter(returns, 5.0, 1).sum()) == 21  # ceil(0.05 * 401)
    assert int(dynamic_filter(returns, 5.0, 64).sum()) == 64


def test_the_fallback_rests_while_enough_are_kept():
    returns = np.arange(10.0)
    np.testing.assert_array_equal(dynamic_filter(returns, 0.0, 3), dynamic_filter(returns, 0.0))
    assert int(dynamic_filter(returns, 0.0, 4).sum()) == 4
    sparse = np.array([0.0] * 60 + [1.0])  # keeps one; the fallback would keep 5 % of 61
    assert int(dynamic_filter(sparse, 0.0, 1).sum()) == 1


def test_filter_of_nothing_and_of_nonsense():
    assert dynamic_filter(np.zeros(0), 0.0, 64).shape == (0,)
    with pytest.raises(ValueError, match="min_keep"):
        dynamic_filter(np.arange(3.0), 0.0, -1)
    with pytest.raises(ValueError, match="vector"):
        dynamic_filter(np.ones((2, 2)), 0.0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite_are_refused(value):
    """One NaN would empty the filter without a word."""
    returns = np.array([1.0, value, 2.0])
    for call in (z_score, lambda r: dynamic_filter(r, 0.0), lambda r: adaptive_threshold(r, 0.0)):
        with pytest.raises(ValueError, match=f"^expected finite numbers, got {value}$"):
            call(returns)
    with pytest.raises(ValueError, match=f"^exploration must be finite, got {value}$"):
        dynamic_filter(np.arange(3.0), value)
    with pytest.raises(ValueError, match=f"^entropy must be finite, got {value}$"):
        exploration_degree(value, 1)
    with pytest.raises(ValueError, match=r"^exploration must be a scalar, got shape \(3,\)$"):
        adaptive_threshold(np.arange(3.0), np.zeros(3))
    assert not jax.jit(dynamic_filter)(returns, 0.0).any()  # a compiled program does not look


def test_compiled_as_eager_and_traced_once():
    traces = []

    @jax.jit
    def compiled(returns, exploration):
        traces.append(1)
        return dynamic_filter(returns, exploration)

    returns = np.random.default_rng(8).normal(size=64).astype(np.float32)
    for exploration in (-1.0, 2.0):
        np.testing.assert_array_equal(compiled(returns, np.float32(exploration)), dynamic_filter(returns, exploration))
    assert len(traces) == 1


@pytest.mark.parametrize("returns", [[0.0, 0.0, -223735984.0], [0.0] * 19 + [-1.6547548e20]])
@pytest.mark.parametrize("exploration", [-18.0, 0.0])
def test_returns_at_the_threshold_are_counted_as_they_are_kept(returns, exploration):
    """The median is the highest return: rounding decides whether it is above itself, once for count and mask."""
    returns = np.array(returns, np.float32)
    kept = [np.asarray(compiled_filter(returns, exploration, min_keep=least)) for least in (0, 1, 2)]
    assert kept[0].sum() in (0, len(returns) - 1)
    for least in (1, 2):
        assert least <= kept[least].sum() < len(returns) and not kept[least][-1]


@fuzz
@given(returns=returns_vectors, exploration=finite, min_keep=st.sampled_from([1, 5]))
def test_any_returns_give_a_sensible_filter(returns, exploration, min_keep):
    z = np.asarray(compiled_score(returns))
    tau = float(compiled_threshold(z, exploration))
    assert np.isfinite(z).all() and math.isfinite(tau)
    assert np.median(z) - 1e-6 <= tau
    strict = np.asarray(compiled_filter(returns, exploration))
    keep = np.asarray(compiled_filter(returns, exploration, min_keep=min_keep))
    np.testing.assert_array_equal(strict, z > tau)
    assert keep[strict].all(), "the fallback only adds"
    if keep.any() and not keep.all():
        assert returns[keep].min() >= returns[~keep].max(), "never a lower return before a higher one"
    if returns.min() == returns.max():
        assert not keep.any()
    elif returns.max() / 2 > returns.min() / 2 and np.ptp(returns.astype(np.float64)) > 1e-37:
        assert keep.sum() >= min(min_keep, returns.size)


@fuzz
@given(entropy=finite, kind=st.sampled_from(KINDS), progress=st.floats(0, 1, width=32))
def test_any_entropy_gives_a_finite_degree(entropy, kind, progress):
    degree = compiled_degree(entropy, action_dim=6, kind=kind, progress=progress)
    assert np.isfinite(degree)
