"""The effect of a method's parts, and that they change nothing else, bit for bit where nothing else is computed."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import Method, Views, make_learner
from covr_jax.agents.methods.drq import random_shifts
from covr_jax.agents.networks import make_networks
from tests.support.compositions import CONFIG, NAMES, RATE, SIZE, A, B, compose, composition, make_batch
from tests.support.oracle import make_agent, tensor, to_torch
from tests.support.papers import cut, papers, translate_at
from tests.support.trees import assert_trees_equal, assert_trees_equal_but_for_rounding

STEPS = 3


def trained(now, batches):
    """Returns the state after an update with each batch."""
    state = now.start()
    for number, batch in enumerate(batches):
        state, _ = now.update(state, batch, jax.random.key(number))
    return state


def batches_of(method):
    return [make_batch(method, 70 + number) for number in range(STEPS)]


@pytest.mark.slow
def test_deepmdp_with_auxiliary_rate_0_is_sac():
    sac, base = composition("sac"), composition("deepmdp")
    still = compose(base.method, dataclasses.replace(base.config, auxiliary_learning_rate=0.0))
    batches = batches_of(sac.method)
    one, two = trained(sac, batches), trained(still, batches)
    for part in ("torso", "critic", "actor"):
        assert_trees_equal_but_for_rounding(one.params[part], two.params[part])
    assert_trees_equal_but_for_rounding((one.target, one.log_alpha), (two.target, two.log_alpha))
    assert_trees_equal(two.params["auxiliary"], still.start().params["auxiliary"])


def test_sac_reads_neither_previous_actions_nor_futures():
    sac = composition("sac")
    batches, taco = batches_of(sac.method), composition("taco").method
    before, future = np.full((B, A), 0.3, np.float32), make_batch(taco, 80).future
    more = [batch._replace(previous_action=before, future=future) for batch in batches]
    assert_trees_equal(trained(sac, batches), trained(sac, more))


@pytest.mark.slow
def test_weights_of_1_are_no_weights_up_to_rounding():
    sac = composition("sac")
    batch = batches_of(sac.method)[0]
    one, two = (trained(sac, [b]) for b in (batch, batch._replace(weight=np.ones(B, np.float32))))
    moments = (state.critic_opt[0].mu for state in (one, two))
    for left, right in zip(*map(jax.tree.leaves, moments), strict=True):
        assert np.abs(left - right).max() <= 1e-6 * np.abs(left).max()


@pytest.mark.slow
def test_a_row_with_weight_0_is_not_fitted_but_counted():
    sac = composition("sac")
    batch = make_batch(sac.method, 90)
    weight = np.where(np.arange(B) < B // 2, 2.0, 0.0).astype(np.float32)
    half = jax.tree.map(lambda x: None if x is None else x[: B // 2], batch)
    noise_free = sac.start()
    state, metrics = sac.update(
        noise_free, batch._replace(weight=weight, discount=np.zeros(B, np.float32)), jax.random.key(0)
    )
    alone, expected = sac.update(noise_free, half._replace(discount=np.zeros(B // 2, np.float32)), jax.random.key(0))
    assert float(metrics["losses/critic"]) == pytest.approx(float(expected["losses/critic"]), rel=1e-5)
    for one, two in zip(jax.tree.leaves(state.critic_opt[0].mu), jax.tree.leaves(alone.critic_opt[0].mu), strict=True):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-5 * np.abs(two).max())


@pytest.mark.slow
def test_svea_without_its_strong_view_learns_from_the_mild_one():
    svea = composition("svea")
    shifts = random_shifts(SIZE)
    mild_only = shifts._replace(augment=lambda key, *images: shifts.augment(jax.random.split(key)[0], *images))
    networks = partial(make_networks, squash=True)
    weightless = compose(svea.method._replace(view_weights=(1.0, 0.0)), svea.config)
    mild = compose(Method(mild_only, networks=networks), svea.config)
    batch, key = make_batch(svea.method, 91), jax.random.key(92)
    (one, metrics), (two, expected) = (now.update(now.start(), batch, key) for now in (weightless, mild))
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    # A batch of twice the rows is summed in another order.
    for optimiser in ("critic_opt", "actor_opt"):
        moments = [jax.tree.leaves(getattr(state, optimiser)[0].mu) for state in (one, two)]
        for a, b in zip(*moments, strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * np.abs(b).max())


@pytest.mark.slow
def test_two_equal_views_double_the_loss_of_drq():
    """Loss and gradient of the critic."""
    drq = composition("drq")

    def identity(key, observation, following):
        return Views((observation, observation), (following, following))

    unmoved = drq.method.augmentation._replace(augment=identity)
    # A policy without noise: the two targets then agree as well.
    config = dataclasses.replace(drq.config, log_std_min=-30.0, log_std_max=-29.0, init_temperature=1e-9)
    twice = compose(drq.method._replace(augmentation=unmoved), config)
    single = unmoved._replace(augment=lambda key, *images: Views(*((image,) for image in images)))
    once = compose(drq.method._replace(augmentation=single, view_weights=(1.0,)), config)
    batch, key = make_batch(drq.method, 93), jax.random.key(94)
    (one, metrics), (two, expected) = (now.update(now.start(), batch, key) for now in (twice, once))
    assert float(metrics["losses/critic"]) == pytest.approx(2 * float(expected["losses/critic"]), rel=1e-5)
    for a, b in zip(jax.tree.leaves(one.critic_opt[0].mu), jax.tree.leaves(two.critic_opt[0].mu), strict=True):
        np.testing.assert_allclose(a, 2 * b, rtol=0, atol=2e-5 * np.abs(b).max())


CROPPED = ("curl", "spr", "mlr")


def centred(name, images):
    if name in ("rad", "resact"):
        return translate_at(images, np.zeros((B, 2), int), round(1.08 * SIZE))  # one pixel more, which goes to the end
    return cut(images, np.ones((B, 2), int), round(0.84 * SIZE)) if name in CROPPED else tensor(images)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_acting_is_the_policy_on_the_centred_image(name):
    now, key = composition(name), jax.random.key(5)
    state, batch = now.start(seed=3), make_batch(now.method, 95)
    agent, params = make_agent(papers(SIZE)[name], now.config), to_torch(state.params)
    features = agent.torso(params["torso"], centred(name, batch.observation))
    before = None if batch.previous_action is None else tensor(batch.previous_action)

    def policy(noise):
        return agent.policy(params["actor"], features, noise, before, 0.2)[0].numpy()

    mean = policy(tensor(np.zeros((B, A))))
    np.testing.assert_allclose(now.act(state, batch.observation, None, batch.previous_action), mean, atol=1e-5)
    explored = now.act(state, batch.observation, key, batch.previous_action)
    noise = np.asarray(jax.random.normal(key, (B, A)), np.float64)
    if agent.paper.deterministic:  # exploring does not clip the noise, which losses do
        np.testing.assert_allclose(explored, np.clip(mean + 0.2 * noise, -1, 1), atol=1e-5)
        assert np.abs(0.2 * noise).max() > 0.3
    else:
        np.testing.assert_allclose(explored, policy(tensor(noise)), atol=1e-5)


def test_a_residual_policy_adds_to_the_previous_action():
    """With a head that returns 0, the policy repeats the action through another tanh."""
    now = composition("resact")
    state, batch = now.start(), make_batch(now.method, 96)
    actor = state.params["actor"] | {"head": jax.tree.map(jnp.zeros_like, state.params["actor"]["head"])}
    state = state.replace(params=state.params | {"actor": actor})
    for before in (batch.previous_action, np.zeros((B, A), np.float32)):
        np.testing.assert_allclose(now.act(state, batch.observation, None, before), np.tanh(before), atol=1e-6)


def test_difference_features_of_a_still_are_0_where_both_stacks_are_the_same():
    now = composition("resact")
    networks = now.method.networks(A, num_filters=4, conv_kernels=(3,), conv_strides=(2,), feature_dim=5, hidden_dim=8)
    frame = np.random.default_rng(0).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)
    still = np.tile(frame, 3)
    params = networks.torso.init(jax.random.key(0), still)
    assert not np.array_equal(params["now"]["conv_0"]["kernel"], params["before"]["conv_0"]["kernel"])
    assert np.abs(networks.torso.apply(params, still)).max() > 0
    same = params | {"before": params["now"]}
    assert np.abs(networks.torso.apply(same, still)).max() == 0
    moving = still.copy()
    moving[..., 6:] = 255 - frame  # only the newest frame
    assert np.abs(networks.torso.apply(same, moving)).max() > 0


def test_the_entropy_of_a_deterministic_policy_is_that_of_its_noise():
    learner = make_learner(A, RATE, composition("drqv2").method, CONFIG)
    now = composition("drqv2")
    for deviation in (0.2, 1.0):
        state = now.start().replace(exploration_noise=jnp.asarray(deviation, jnp.float32))
        found = learner.entropy(state, make_batch(now.method, 97).observation, jax.random.key(0))
        np.testing.assert_allclose(found, A * 0.5 * np.log(2 * np.pi * np.e * deviation**2), rtol=1e-5)
