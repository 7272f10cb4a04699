"""The two pulls at a policy, worked by hand."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from experiments.benchmark.guidance import pulls


def test_the_pulls_of_critics_and_vlm():
    """Q = 3 a1 - 4 a2, so |dQ/da| = 5; a = 0; lambda 0.1.

    Row 0: a_v = (0.3, -0.4), along the gradient: Q rises by 0.9 + 1.6 = 2.5, the pull is 2 * 0.1 * 0.5 = 0.1.
    Row 1: a_v = (-0.6, 0.8), against it: Q falls by 5, the pull is 0.2. Row 2 has no answer.
    """
    action, prior = jnp.zeros((3, 2)), jnp.array([[0.3, -0.4], [-0.6, 0.8], [0.9, 0.9]])
    valid = np.array([True, True, False])
    found = pulls(lambda _, a: 3 * a[:, 0] - 4 * a[:, 1], np.zeros(3), action, prior, valid, 0.1)
    expected = {
        "q": [0, 0, 0],
        "critic_pull": [5, 5, 5],
        "guidance_pull": [0.1, 0.2, 0],
        "towards": [1, 0, np.nan],
        "better": [1, 0, np.nan],
        "q_gain": [2.5, -5, np.nan],
        "gap": [0.5, 1, np.nan],
    }
    assert set(found) == set(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-6, atol=1e-7, err_msg=name)
