"""The learner's update against the float64 oracle in Torch, its invariants, and acting.

B batch, H W image, C channels, A action.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytest.importorskip("torch")

from covr_jax.agents import Method, make_learner
from covr_jax.agents.methods.rad import random_translate
from covr_jax.agents.updates import update_target
from covr_jax.config import SACConfig
from covr_jax.types import Prior
from tests.support import compositions, oracle
from tests.support.compositions import SIZE, A
from tests.support.oracle import assert_close, tensor, to_torch
from tests.support.papers import translate_at, translated
from tests.support.trees import assert_trees_equal, trees_equal

B, CANVAS, CHANNELS = 6, 14, 6
RATE = 1e-3
METHOD = Method(random_translate(SIZE, CANVAS))
PAPER = oracle.Paper(translated(CANVAS))
CONFIG = SACConfig(
    hidden_dim=8,
    feature_dim=5,
    num_filters=3,
    conv_kernels=(4, 3),
    conv_strides=(2, 1),
    alpha_learning_rate=1e-2,
    discount=0.9,
)


def make_batch(seed=0):
    return compositions.make_batch(METHOD, seed, B)


def with_nan(x):
    """The array with NaN as its third number."""
    return np.where(np.arange(len(x)) == 2, np.nan, np.asarray(x)).astype(np.float32)


@pytest.fixture(scope="module")
def setup():
    """A learner, its compiled updates by ``with_actor``, and a state after six updates."""
    learner = make_learner(A, RATE, METHOD, CONFIG)
    update = {flag: jax.jit(partial(learner.update, with_actor=flag)) for flag in (False, True)}
    state = learner.init(jax.random.key(0), np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8), jnp.zeros((1, A)))
    state = state.replace(guidance_weight=jnp.asarray(0.7, jnp.float32))
    for number in range(6):
        state, _ = update[number % 2 == 0](state, make_batch(number), jax.random.key(number))
    return learner, update, state


@pytest.mark.parametrize("with_actor", [False, True])
def test_one_full_update_equals_the_float64_oracle(setup, with_actor):
    _, update, state = setup
    batch, key = make_batch(50), jax.random.key(51)
    assert 0 < batch.discount.sum() < B and 0 < batch.prior.valid.sum() < B
    assert float(state.guidance_weight) == pytest.approx(0.7) and CONFIG.alpha_beta1 == 0.5
    got, metrics = update[with_actor](state, batch, key)
    expected = oracle.update(PAPER, CONFIG, RATE, state, batch, key, with_actor)
    assert metrics.keys() == expected.metrics.keys()
    for name, value in expected.metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    assert_close(got.params, expected.params, "params")
    assert_close(got.target, expected.target, "target")
    for name, states in (("critic", got.critic_opt), ("actor", got.actor_opt), ("alpha", got.alpha_opt)):
        if with_actor or name == "critic":
            adam = expected.optimisers[name]
            assert int(states[0].count) == adam.count
            assert_close(states[0].mu, adam.mu, f"{name} mu")
            assert_close(states[0].nu, adam.nu, f"{name} nu")
    assert float(got.log_alpha) == pytest.approx(expected.log_alpha.item(), rel=1e-5)
    # The step itself, not only its result: steps are a thousandth of the parameters.
    step = jax.tree.map(
        lambda new, old: np.asarray(new, np.float64) - np.asarray(old, np.float64), got.params, state.params
    )
    expected_step = jax.tree.map(lambda new, old: new - tensor(old), expected.params, state.params)
    changed = step if with_actor else {name: step[name] for name in ("torso", "critic")}
    # float32 ulps of params near 1
    assert_close(changed, {name: expected_step[name] for name in changed}, "step", rel=5e-3)
    assert int(got.updates) == int(state.updates) + 1


def with_weight(state, weight):
    """Guidance weight as the loop sets it: strongly typed."""
    return state.replace(guidance_weight=jnp.asarray(weight, jnp.float32))


def test_the_critics_step_leaves_actor_temperature_and_targets_alone(setup):
    _, update, state = setup
    after, _ = update[False](state, make_batch(60), jax.random.key(1))
    for name in ("target", "actor_opt", "log_alpha", "alpha_opt"):
        assert_trees_equal(getattr(after, name), getattr(state, name))
    assert_trees_equal(after.params["actor"], state.params["actor"])
    assert not trees_equal(after.params["torso"], state.params["torso"])


def test_the_actors_step_reaches_neither_torso_nor_critic(setup):
    _, update, state = setup
    batch, key = make_batch(61), jax.random.key(2)
    without, _ = update[False](state, batch, key)
    guided, _ = update[True](with_weight(state, 100.0), batch, key)
    for name in ("torso", "critic"):
        for one, two in zip(jax.tree.leaves(guided.params[name]), jax.tree.leaves(without.params[name]), strict=True):
            # A leak would move Adam's moments, and with them every weight, by about the learning rate.
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-3 * RATE)
    assert not trees_equal(guided.params["actor"], without.params["actor"])


def test_an_update_without_a_finite_gradient_is_skipped_and_the_next_one_is_as_if_it_had_not_been(setup):
    _, update, state = setup
    bad = make_batch(7)
    bad = bad._replace(reward=with_nan(bad.reward))
    spoilt, metrics = update[True](state, bad, jax.random.key(7))
    assert np.isnan(metrics["losses/critic"])
    assert_trees_equal(
        (spoilt.params["critic"], spoilt.params["torso"]), (state.params["critic"], state.params["torso"])
    )
    assert_trees_equal(spoilt.critic_opt, state.critic_opt)
    assert not trees_equal(spoilt.params["actor"], state.params["actor"])  # its gradient is finite
    counts = [int(x) for x in (spoilt.updates, spoilt.skipped, spoilt.skipped_in_a_row)]
    assert counts == [7, 1, 1]
    spoilt, _ = update[False](state, bad, jax.random.key(7))
    spoilt, _ = update[False](spoilt, bad, jax.random.key(8))
    after, _ = update[False](spoilt, make_batch(9), jax.random.key(9))
    straight, _ = update[False](state, make_batch(9), jax.random.key(9))
    assert [int(x) for x in (after.updates, after.skipped, after.skipped_in_a_row)] == [9, 2, 0]
    assert_trees_equal((after.params, after.critic_opt), (straight.params, straight.critic_opt))


def test_a_termination_hides_the_next_observation(setup):
    _, update, state = setup
    batch = make_batch(62)._replace(discount=np.zeros(B, np.float32))
    one, _ = update[False](state, batch, jax.random.key(3))
    two, _ = update[False](state, batch._replace(next_observation=make_batch(63).next_observation), jax.random.key(3))
    assert_trees_equal(one, two)
    alive = batch._replace(discount=np.ones(B, np.float32))
    three, _ = update[False](state, alive, jax.random.key(3))
    assert not trees_equal(one.params, three.params)


def test_target_rates_are_those_of_sac_ae(setup):
    _, _, state = setup
    ones, zeros = jax.tree.map(jnp.ones_like, state.params), jax.tree.map(jnp.zeros_like, state.target)
    targets = update_target(CONFIG.resolved(RATE), state.replace(params=ones, target=zeros)).target
    for tree, rate in (
        (targets["torso"], 0.05),
        (targets["critic"]["encoder"], 0.05),
        (targets["critic"]["heads"], 0.01),
    ):
        for leaf in jax.tree.leaves(tree):
            np.testing.assert_allclose(leaf, rate, rtol=1e-6)


def test_a_prior_with_weight_0_changes_no_bit(setup):
    _, update, state = setup
    state = with_weight(state, 0.0)
    batch = make_batch(64)
    absent = batch._replace(prior=Prior(np.zeros((B, A), np.float32), np.zeros(B, bool)))
    present = batch._replace(prior=batch.prior._replace(valid=np.ones(B, bool)))
    (one, metrics), (two, other) = (update[True](state, b, jax.random.key(4)) for b in (absent, present))
    assert_trees_equal(one, two)
    assert float(metrics["losses/guidance"]) == 0.0 < float(other["losses/guidance"])


def test_a_weight_without_valid_priors_changes_no_bit(setup):
    _, update, state = setup
    batch = make_batch(65)
    absent = batch._replace(prior=Prior(np.zeros((B, A), np.float32), np.zeros(B, bool)))
    one, _ = update[True](with_weight(state, 0.0), absent, jax.random.key(5))
    two, _ = update[True](with_weight(state, 50.0), absent, jax.random.key(5))
    assert_trees_equal(one.params, two.params)


def test_guidance_moves_the_actor_towards_the_prior(setup):
    learner, update, state = setup
    prior = Prior(np.tile([[0.9, -0.9]], (B, 1)).astype(np.float32), np.ones(B, bool))
    batch = make_batch(66)._replace(prior=prior)
    gaps = {}
    for weight in (0.0, 30.0):
        guided = with_weight(state, weight)
        for number in range(150):
            guided, _ = update[True](guided, batch, jax.random.key(number))
        gaps[weight] = float(np.abs(learner.act(guided, batch.observation) - prior.action).mean())
    assert gaps[30.0] < 0.3
    assert gaps[30.0] < 0.5 * gaps[0.0]


def test_each_update_is_traced_once_and_nothing_is_weakly_typed(setup):
    learner, update, state = setup
    assert update[False]._cache_size() == update[True]._cache_size() == 1
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(state))
    fresh = learner.init(jax.random.key(0), np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8), jnp.zeros((1, A)))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), fresh) == jax.tree.map(lambda x: (x.shape, x.dtype), state)


def test_strict_rules_on_keys_and_ranks_hold(setup):
    learner, _, state = setup
    with jax.debug_key_reuse(True), jax.numpy_rank_promotion("raise"):
        strict = jax.jit(partial(learner.update, with_actor=True))
        strict(state, make_batch(67), jax.random.key(6))


def test_acting_gives_the_mean_or_a_sample_of_the_policy(setup):
    learner, _, state = setup
    observation = make_batch(68).observation
    mean = learner.act(state, observation)
    np.testing.assert_array_equal(mean, learner.act(state, observation))
    sampled = [learner.act(state, observation, jax.random.key(k)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(sampled[0], sampled[1])
    assert (sampled[0] != sampled[2]).all() and (sampled[0] != mean).all()
    assert mean.shape == (B, A) and mean.dtype == jnp.float32 and np.abs(mean).max() <= 1
    # The mean action by the oracle's networks, with the image centred.
    agent, params = oracle.Agent(PAPER, CONFIG), to_torch(state.params)
    features = agent.torso(params["torso"], translate_at(observation, np.ones((B, 2), int), CANVAS))
    expected, _ = agent.policy(params["actor"], features, tensor(np.zeros((B, A))), None, 0.0)
    np.testing.assert_allclose(mean, expected.numpy(), atol=1e-5)


def test_entropy_is_minus_the_log_density_of_a_sample(setup):
    learner, _, state = setup
    observation = make_batch(69).observation
    agent, params = oracle.Agent(PAPER, CONFIG), to_torch(state.params)
    features = agent.torso(params["torso"], translate_at(observation, np.ones((B, 2), int), CANVAS))
    noise = tensor(jax.random.normal(jax.random.key(8), (B, A)))
    _, log_prob = agent.policy(params["actor"], features, noise, None, 0.0)
    np.testing.assert_allclose(learner.entropy(state, observation, jax.random.key(8)), -log_prob.numpy(), rtol=1e-4)


@pytest.mark.slow
def test_seeds_can_be_vmapped(setup):
    learner, update, _ = setup
    example = np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8), jnp.zeros((1, A))
    states = [learner.init(jax.random.key(seed), *example) for seed in range(3)]
    batches, keys = [make_batch(70 + seed) for seed in range(3)], jax.random.split(jax.random.key(9), 3)
    stacked = jax.jit(jax.vmap(partial(learner.update, with_actor=True)))(
        jax.tree.map(lambda *x: jnp.stack(x), *states), jax.tree.map(lambda *x: np.stack(x), *batches), keys
    )
    for seed, (state, batch) in enumerate(zip(states, batches, strict=True)):
        alone, _ = update[True](state, batch, keys[seed])
        # The first step of Adam is the gradient's sign, so parameters differ by steps where it is nearly zero.
        together = jax.tree.map(lambda x: x[seed], stacked[0])  # noqa: B023
        for one, two in zip(
            jax.tree.leaves(alone.critic_opt[0].mu), jax.tree.leaves(together.critic_opt[0].mu), strict=True
        ):
            np.testing.assert_allclose(two, one, rtol=0, atol=1e-5 * max(np.abs(one).max(), 1e-6))


def test_initialisation_is_sac_aes(setup):
    learner, _, _ = setup
    state = learner.init(jax.random.key(3), np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8), jnp.zeros((1, A)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        if path[-1].key == "bias":
            assert (np.asarray(leaf) == 0.0).all()
    heads = np.asarray(state.params["critic"]["heads"]["Dense_1"]["kernel"])
    np.testing.assert_allclose(heads[0] @ heads[0].T, np.eye(8), atol=1e-5)
    assert (heads[0] != heads[1]).any()  # twins, not copies
    assert_trees_equal(state.target, {name: state.params[name] for name in ("torso", "critic")})
    assert float(jnp.exp(state.log_alpha)) == pytest.approx(0.1)
    assert float(state.guidance_weight) == 0.0 and int(state.updates) == 0
