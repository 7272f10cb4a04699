"""Every method's update against float64 Torch, and against the numbers that it gave when it was written."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compositions import NAMES, RATE, SIZE, B, composition, make_batch
from oracle import assert_close, tensor, update
from papers import papers

PAPERS = papers(SIZE)


@cache
def experienced(name):
    """A state whose optimisers have seen some gradients, with guidance."""
    now = composition(name)
    state = now.start().replace(guidance_weight=jnp.asarray(0.7, jnp.float32))
    for number in range(4):
        state, _ = now.update(state, make_batch(now.method, number), jax.random.key(number))
    return state


def optimisers_of(state):
    found = {"critic": state.critic_opt, "actor": state.actor_opt, "alpha": state.alpha_opt}
    return found | ({"auxiliary": state.auxiliary_opt} if state.auxiliary_opt else {})


@pytest.mark.parametrize("name", NAMES)
def test_one_update_equals_the_float64_oracle(name):
    now, state = composition(name), experienced(name)
    batch, key = make_batch(now.method, 50), jax.random.key(51)
    assert 0 < batch.discount.sum() < B and 0 < batch.prior.valid.sum() < B
    got, metrics = now.update(state, batch, key)
    expected = update(PAPERS[name], now.config, RATE, state, batch, key)
    assert metrics.keys() == expected.metrics.keys()
    for metric, value in expected.metrics.items():
        np.testing.assert_allclose(metrics[metric], value, rtol=1e-4, err_msg=metric)
    optimisers = optimisers_of(got)
    for which, state_after in optimisers.items():
        if which == "alpha" and PAPERS[name].deterministic:
            continue
        adam = expected.optimisers[which]
        assert int(state_after[0].count) == adam.count
        assert_close(state_after[0].mu, adam.mu, f"{which} mu")
        assert_close(state_after[0].nu, adam.nu, f"{which} nu")
    assert_close(got.params, expected.params, "params")
    assert_close(got.target, expected.target, "target")
    assert float(got.log_alpha) == pytest.approx(expected.log_alpha.item(), rel=1e-5)
    # What the update did, not only where it ended: the steps are a thousandth of the parameters.
    steps = [
        jax.tree.map(lambda new, old: np.asarray(new, np.float64) - np.asarray(old, np.float64), tree, state.params)
        for tree in (got.params, jax.tree.map(lambda x: x.numpy(), expected.params))
    ]
    assert_close(steps[0], jax.tree.map(tensor, steps[1]), "step", rel=5e-3)  # float32 ulps of params near 1
