"""The soft indicator against dm_control's own."""

from __future__ import annotations

import numpy as np
import pytest
from dm_control.utils import rewards as reference

from covr_jax.envs.rewards import tolerance

X = np.concatenate([np.linspace(-6.0, 6.0, 241), [-2.0, -0.5, 0.0, 0.5, 1.0, 3.0]])


@pytest.mark.parametrize("sigmoid", ["gaussian", "linear", "quadratic"])
@pytest.mark.parametrize("bounds", [(0.0, 0.0), (-0.5, 1.0), (2.0, np.inf), (-np.inf, -1.0)])
@pytest.mark.parametrize("margin", [0.0, 0.3, 2.0, 5.0])
@pytest.mark.parametrize("value_at_margin", [0.1, 0.6])
def test_equals_dm_control(sigmoid, bounds, margin, value_at_margin):
    expected = reference.tolerance(X, bounds, margin, sigmoid, value_at_margin)
    got = tolerance(X.astype(np.float32), bounds, margin, sigmoid, value_at_margin)
    np.testing.assert_allclose(got, expected, atol=2e-6)


@pytest.mark.parametrize("sigmoid", ["linear", "quadratic"])
def test_zero_at_the_margin_as_cartpole_uses_it(sigmoid):
    expected = reference.tolerance(X, margin=1.0, value_at_margin=0.0, sigmoid=sigmoid)
    np.testing.assert_allclose(tolerance(X.astype(np.float32), (0.0, 0.0), 1.0, sigmoid, 0.0), expected, atol=2e-6)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bounds": (1.0, 0.0)}, "lower <= upper"),
        ({"margin": -0.1}, "margin >= 0"),
        ({"margin": 1.0, "sigmoid": "tanh"}, "unknown sigmoid 'tanh'; choose from gaussian, linear, quadratic"),
        ({"sigmoid": "nonsense"}, "unknown sigmoid"),
    ],
)
def test_bad_options_are_refused(options, complaint):
    with pytest.raises(ValueError, match=complaint):
        tolerance(np.zeros(1), **options)
