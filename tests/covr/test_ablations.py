"""The controls of Table 5, against hand-worked values. N samples."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from covr_jax.covr import ablations, eddf, ralw

KEY = jax.random.key(3)
RETURNS = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 30.0], np.float32)


def test_eddf_and_ralw_are_the_defaults():
    keep = ablations.select(KEY, RETURNS, -1.0)
    np.testing.assert_array_equal(keep, eddf.dynamic_filter(RETURNS, -1.0))
    np.testing.assert_array_equal(ablations.weights(KEY, RETURNS), ralw.loss_weights(RETURNS))


def test_a_random_filter_keeps_as_many_others():
    expected = int(eddf.dynamic_filter(RETURNS, -1.0).sum())
    kept = np.stack([ablations.select(jax.random.key(k), RETURNS, -1.0, kind="random") for k in range(400)])
    assert (kept.sum(1) == expected).all() and 0 < expected < len(RETURNS)
    share = expected / len(RETURNS)
    assert np.abs(kept.mean(0) - share).max() < 5 * np.sqrt(share * (1 - share) / 400)


@pytest.mark.parametrize(("percentile", "kept"), [(80, [8.0, 30.0]), (90, [30.0]), (0, RETURNS)])
def test_a_percentile_cut(percentile, kept):
    """Of ten values the 80th percentile is 7.2 and the 90th 10.2, by linear interpolation."""
    keep = np.asarray(ablations.select(KEY, RETURNS, 0.0, kind="top", percentile=percentile))
    np.testing.assert_array_equal(RETURNS[keep], kept)


def test_no_filter():
    assert ablations.select(KEY, RETURNS, 0.0, kind="none").all()


def test_eq_5_without_z_scores_keeps_the_same_samples():
    """Median and quartiles move and stretch with the data: M5 of Table 5 cannot come from the filter itself."""
    generator = np.random.default_rng(0)
    for scale in (1e-2, 1.0, 1e3):
        returns = (scale * generator.gamma(2.0, size=501) + generator.normal()).astype(np.float32)
        for exploration in (-2.0, 0.0, 2.0):
            raw = ablations.select(KEY, returns, exploration, z_score=False)
            np.testing.assert_array_equal(raw, ablations.select(KEY, returns, exploration))
            # By hand, in float64.
            q1, median, q3 = np.quantile(returns.astype(np.float64), [0.25, 0.5, 0.75])
            np.testing.assert_array_equal(raw, returns > median + (q3 - q1) / (1 + np.exp(-exploration)))


def test_uniform_and_random_weights():
    np.testing.assert_array_equal(ablations.weights(KEY, RETURNS, kind="uniform"), np.ones(10))
    drawn = np.asarray(ablations.weights(KEY, np.zeros(20_000, np.float32), kind="random"))
    assert drawn.min() == 0.0 and drawn.max() <= 1.0
    assert abs((drawn == 0).mean() - 0.5) < 0.02  # half of U(-1, 1) lies below 0
    assert abs(drawn.mean() - 0.25) < 0.01


@pytest.mark.parametrize("kind", [*ablations.FILTERS, *ablations.WEIGHTS])
def test_scores_are_a_vector_of_finite_numbers(kind):
    call = ablations.weights if kind in ablations.WEIGHTS else lambda *a, kind: ablations.select(*a, 0.0, kind=kind)
    with pytest.raises(ValueError, match=r"^expected a vector \[N\], got shape \(2, 2\)$"):
        call(KEY, np.ones((2, 2)), kind=kind)
    with pytest.raises(ValueError, match=r"^expected finite numbers, got nan$"):
        call(KEY, np.array([1.0, np.nan]), kind=kind)


@pytest.mark.parametrize("percentile", [-1.0, 100.5, np.nan])
def test_a_percentile_that_is_none_is_refused(percentile):
    with pytest.raises(ValueError, match=r"^percentile must lie in \[0, 100\], got "):
        ablations.select(KEY, RETURNS, 0.0, kind="top", percentile=percentile)


@pytest.mark.parametrize("call", [ablations.select, ablations.weights])
def test_an_unknown_kind_is_refused(call):
    arguments = (KEY, RETURNS, 0.0) if call is ablations.select else (KEY, RETURNS)
    with pytest.raises(ValueError, match=r"unknown (filter|weights) 'best'"):
        call(*arguments, kind="best")
