"""Every method's update against float64 Torch, and against recorded numbers."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.support.compositions import HASTE, NAMES, RATE, SIZE, B, composition, make_batch
from tests.support.oracle import assert_close, tensor, update
from tests.support.papers import papers
from tests.support.trees import assert_trees_equal

PAPERS = {
    name: paper._replace(taus=tuple(min(HASTE * tau, 1.0) for tau in paper.taus))
    for name, paper in papers(SIZE).items()
}


@cache
def updated_state(name):
    """Returns a state after four updates, with guidance."""
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
    now, state = composition(name), updated_state(name)
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
    # The step itself, not only its result: steps are a thousandth of the parameters.
    steps = [
        jax.tree.map(lambda new, old: np.asarray(new, np.float64) - np.asarray(old, np.float64), tree, state.params)
        for tree in (got.params, jax.tree.map(lambda x: x.numpy(), expected.params))
    ]
    assert_close(steps[0], jax.tree.map(tensor, steps[1]), "step", rel=5e-3)  # float32 ulps of params near 1


def norm(tree):
    return np.sqrt(sum(np.square(np.asarray(leaf, np.float64)).sum() for leaf in jax.tree.leaves(tree)))


# After one update of a fresh learner: losses of critic and actor, norms of the parameters and of the gradients' first
# moments (critic, actor, auxiliary).
GOLDEN = {
    "sac": [43.2618, 0.285952, 14.6314, 4.25377, 0.195411],
    "rad": [43.4676, 0.254924, 14.631, 3.83842, 0.199787],
    "drq": [88.5632, 0.363552, 14.6314, 5.28898, 0.161685],
    "drqv2": [47.9367, -0.0992478, 14.5627, 2.24867, 0.00689613],
    "deepmdp": [43.2618, 0.301711, 35.7637, 4.25377, 0.199181, 19.6667],
    "curl": [44.0883, 0.216304, 16.1471, 3.36647, 0.233145, 1.04208],
    "dgc_like": [43.2618, 0.302685, 35.7777, 4.25377, 0.199454, 19.7261],
    "svea": [44.0543, 0.371159, 14.6333, 2.4635, 0.162655],
    "resact": [37.4798, 0.367219, 36.126, 3.24981, 0.292842, 18.9724],
    "taco": [46.9815, -0.128276, 18.9451, 2.33184, 0.00144257, 3.49467],
    "spr": [44.0883, 0.200556, 28.2847, 3.36647, 0.234295, 10.6093],
    "mlr": [44.0883, 0.207793, 20.1992, 3.36647, 0.229907, 1.14783],
    "mrq": [4.05681, -0.138495, 18.8858, 0.756555, 0.0849609, 0.775861],
}


@pytest.mark.parametrize("name", NAMES)
def test_one_update_gives_the_recorded_numbers(name):
    now = composition(name)
    state, metrics = now.update(now.start(), make_batch(now.method, 7), jax.random.key(7))
    moments = [norm(optimiser[0].mu) for which, optimiser in optimisers_of(state).items() if which != "alpha"]
    found = [float(metrics["losses/critic"]), float(metrics["losses/actor"]), norm(state.params), *moments]
    np.testing.assert_allclose(found, GOLDEN[name], rtol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_prior_with_weight_0_changes_no_bit(name):
    now, batch, key = composition(name), make_batch(composition(name).method, 60), jax.random.key(61)
    state = updated_state(name).replace(guidance_weight=jnp.zeros((), jnp.float32))
    absent = batch._replace(prior=jax.tree.map(np.zeros_like, batch.prior))
    one, two = (now.update(state, b, key)[0] for b in (batch, absent))
    assert_trees_equal(one, two)
    guided = now.update(updated_state(name), batch, key)[0]
    for part in ("torso", "critic", "auxiliary"):  # guidance reaches the actor alone
        assert_trees_equal(guided.params[part], one.params[part])
    assert not np.array_equal(*(x.params["actor"]["head"]["Dense_2"]["bias"] for x in (guided, one)))


@pytest.mark.parametrize("name", ["drqv2", "taco", "mrq"])
def test_deterministic_policies_leave_the_temperature_alone(name):
    now, state = composition(name), updated_state(name)
    after, _ = now.update(state, make_batch(now.method, 62), jax.random.key(63))
    assert_trees_equal((after.log_alpha, after.alpha_opt), (now.start().log_alpha, now.start().alpha_opt))
    if name != "mrq":  # the convolutions have no target copy
        assert_trees_equal(after.target["torso"], after.params["torso"])


def test_taco_without_valid_futures_learns_from_shifts_only():
    now, state = composition("taco"), updated_state("taco")
    batch = make_batch(now.method, 64)
    nothing = batch._replace(future=batch.future._replace(valid=np.zeros(B, bool)))
    after, metrics = now.update(state, nothing, jax.random.key(65))
    assert float(metrics["losses/temporal"]) == float(metrics["losses/reward"]) == 0.0
    assert float(metrics["losses/auxiliary"]) == float(metrics["losses/instance"]) > 0.0
    # The content of an invalid future has no effect.
    other = nothing._replace(future=make_batch(now.method, 66).future._replace(valid=nothing.future.valid))
    again, _ = now.update(state, other, jax.random.key(65))
    assert_trees_equal(after, again)
