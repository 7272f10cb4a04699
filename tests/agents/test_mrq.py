"""MR.Q's equations by hand: bins of the reward, losses, targets, copies of the parameters. B batch, A action."""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax import replay
from covr_jax.agents import make_learner, make_method
from covr_jax.agents.method import Views
from covr_jax.agents.methods import mrq
from covr_jax.agents.state import auxiliary_params, make_parts
from covr_jax.agents.updates import copy_targets, critic_targets
from covr_jax.config import AugmentConfig, ConfigError
from covr_jax.types import StepType, TimeStep
from tests.support.compositions import RATE, SIZE, STACK, A, B, composition, make_batch
from tests.support.trees import assert_trees_equal

KEY = jax.random.key(5)


@cache
def parts():
    """Of the method without an augmentation."""
    return make_parts(A, RATE, make_method("mrq", AugmentConfig("none"), SIZE, "translate"), composition("mrq").config)


@cache
def start(seed=0):
    return composition("mrq").start(seed)


def with_scales(state, online, target, **changes):
    """The state with units of the critics' values, and other targets."""
    scales = {"online": jnp.float32(online), "target": jnp.float32(target)}
    return state.replace(target=state.target | changes | {"reward_scale": scales})


# -------------------------------------------------------------------------------------- rewards


def test_bins_are_symexp_of_equal_steps():
    """e^0.3125 = 1.366838, e^0.625 = 1.868246, e^10 = 22026.4658; steps of 20 / 64."""
    bins = mrq.reward_bins()
    assert bins.shape == (65,) and bins[32] == 0.0
    np.testing.assert_allclose(bins[[33, 34, 64]], [0.366838, 0.868246, 22025.4658], rtol=1e-6)
    np.testing.assert_array_equal(bins, -bins[::-1])


@pytest.mark.parametrize(
    ("reward", "below", "share"),
    [
        (0.0, 32, 0.0),
        (0.1, 32, 0.272600),  # 0.1 / 0.366838
        (-0.1, 31, 0.727400),
        (1.0, 34, 0.192245),  # (1 - 0.868246) / (1.553590 - 0.868246)
        (0.366838, 33, 0.0),
        (1e9, 63, 1.0),
        (-1e9, 0, 0.0),
    ],
)
def test_a_reward_is_two_bins(reward, below, share):
    expected = np.zeros(65)
    expected[below], expected[below + 1] = 1.0 - share, share
    np.testing.assert_allclose(mrq.two_hot(jnp.float32(reward)), expected, atol=2e-6)


def test_the_mean_of_two_bins_is_the_reward():
    rewards = np.concatenate([[-8.0, 0.0, 3.0], np.random.default_rng(0).normal(0, 30, 200)]).astype(np.float32)
    weights = np.asarray(mrq.two_hot(rewards.reshape(7, 29)), np.float64)
    assert weights.shape == (7, 29, 65) and (weights >= 0).all() and (np.count_nonzero(weights, axis=-1) <= 2).all()
    np.testing.assert_allclose((weights @ mrq.reward_bins()).ravel(), rewards, rtol=1e-5, atol=1e-5)


def test_cross_entropy_by_hand():
    """Softmax of (0, log 3) is (1/4, 3/4), whose entropy is 0.562335 nats; against (1, 0) it is log 4."""
    logits = jnp.log(jnp.array([[1.0, 3.0], [1.0, 3.0]]))
    found = mrq.cross_entropy(logits, jnp.array([[0.25, 0.75], [1.0, 0.0]]))
    np.testing.assert_allclose(found, [0.562335, 1.386294], rtol=1e-5)


# --------------------------------------------------------------------------------------- losses


def test_critic_loss_by_hand():
    """Errors 0.5, -2, -0.5 and 1: Huber 0.125, 1.5, 0.125 and 0.5."""
    q, y = jnp.array([[1.0, 2.0], [0.0, 5.0]]), jnp.array([0.5, 4.0])
    value, grad = jax.value_and_grad(mrq.critic_loss)(q, y)
    assert float(value) == pytest.approx((0.125 + 1.5) / 2 + (0.125 + 0.5) / 2)
    np.testing.assert_allclose(grad, [[0.25, -0.5], [-0.25, 0.5]])
    weighted = mrq.critic_loss(q, y, jnp.array([2.0, 0.0]))
    assert float(weighted) == pytest.approx(0.125 + 0.125)


def test_actor_loss_by_hand():
    """The mean of both critics, and 1e-5 of the mean square before the tanh, here 12,500."""
    q, u = jnp.array([[1.0, 5.0], [3.0, 2.0]]), jnp.array([[100.0, 0.0], [0.0, -200.0]])
    none = jnp.zeros(2)
    value, (by_q, by_u) = jax.value_and_grad(mrq.actor_loss, (0, 3))(q, none, jnp.asarray(1.0), u)
    assert float(value) == pytest.approx(-0.5 * (4.0 + 7.0) / 2 + 0.125)
    np.testing.assert_allclose(by_q, np.full((2, 2), -0.25))
    np.testing.assert_allclose(by_u, [[5e-4, 0.0], [0.0, -1e-3]], rtol=1e-5)


@pytest.mark.slow
def test_steps_that_were_not_reached_change_nothing_and_all_others_do():
    batch, other, state = make_batch(parts().method, 3), make_batch(parts().method, 4), start()
    views = Views((batch.observation,), (batch.next_observation,))
    trained = auxiliary_params(state.params)

    @jax.jit
    def loss(future):
        return parts().auxiliary.loss(trained, state.target, views, batch._replace(future=future), KEY)[0]

    future = batch.future
    assert 0 < future.reached[1:].mean() < 1
    base = float(loss(future))
    names = ("action", "reward", "observation", "discount")
    mixed = {}
    for name in names:
        mine, foreign = getattr(future, name), getattr(other.future, name)
        mixed[name] = np.where(future.reached.reshape(*mine.shape[:2], *[1] * (mine.ndim - 2)), mine, foreign)
    assert float(loss(future._replace(**mixed))) == base
    row = int(np.flatnonzero(future.reached[4])[0])
    for name in names:
        for step in (0, 4):
            changed = getattr(future, name).copy()
            changed[step, row] = 255 - changed[step, row] if name == "observation" else -0.5 - changed[step, row]
            assert float(loss(future._replace(**{name: changed}))) != base, (name, step)


def test_without_its_batch_the_method_says_what_is_missing():
    batch, state = make_batch(parts().method, 3), start()
    trained, views = auxiliary_params(state.params), Views((batch.observation,), (batch.next_observation,))
    for future in (None, batch.future._replace(reached=None)):
        with pytest.raises(ValueError, match="mrq needs batches with a future of 5 steps"):
            parts().auxiliary.loss(trained, state.target, views, batch._replace(future=future), KEY)
    with pytest.raises(ValueError, match="needs batches with a reward_scale"):
        copy_targets(parts(), state, batch._replace(reward_scale=None))


# -------------------------------------------------------------------------------------- targets


def stored_episode():
    """Rewards 1, 2, 4, 8 of an episode that terminates, sampled with three-step returns and gamma 0.5, by time."""
    kinds = [StepType.FIRST, StepType.MID, StepType.MID, StepType.MID, StepType.LAST]
    images = np.random.default_rng(0).integers(0, 256, (5, 1, SIZE, SIZE, 3 * STACK), dtype=np.uint8)
    ring = replay.init(8, 1, SIZE, A)
    for time, (kind, reward) in enumerate(zip(kinds, (0.0, 1.0, 2.0, 4.0, 8.0), strict=True)):
        step = TimeStep(np.array([kind], np.int32), np.float32([reward]), np.float32([time < 4]), images[time])
        ring = replay.add(ring, step, np.full((1, A), 0.1 * time, np.float32))
    batch = replay.sample(ring, KEY, 32, STACK, 3, 0.5)
    return batch, np.asarray(batch.index[0])


@pytest.mark.slow
def test_targets_of_three_steps_by_hand():
    """Q counts in units of 2, the target's in units of 4; the target's actor acts on the target's features.

    From time 0: R = 1 + 2 / 2 + 4 / 4 = 3 and gamma^3 = 1/8 of the value; later ones meet the termination:
    R = 2 + 4 / 2 + 8 / 4 = 6, 4 + 8 / 2 = 8 and 8, of which nothing follows.
    """
    batch, time = stored_episode()
    others = {name: start(1).params[name] for name in ("torso", "critic", "actor")}
    state = with_scales(start(), 2.0, 4.0, **others).replace(exploration_noise=jnp.float32(0.0))
    views = Views((batch.observation,), (batch.next_observation,))
    y = np.asarray(critic_targets(parts(), state, views, batch, KEY))
    networks = parts().networks
    z = networks.torso.apply(others["torso"], batch.next_observation)
    action = jnp.tanh(networks.actor.apply(others["actor"], z))
    value = np.asarray(networks.critic.apply(others["critic"], z, action)).min(0)
    assert np.ptp(value) > 0 and set(time) == {0, 1, 2, 3}
    np.testing.assert_allclose(y[time == 0], (3.0 + 0.125 * 4.0 * value[time == 0]) / 2.0, rtol=1e-5)
    for number, expected in ((1, 3.0), (2, 4.0), (3, 4.0)):
        np.testing.assert_allclose(y[time == number], expected, rtol=1e-6)
    # The noise is clipped at 0.3.
    loud = critic_targets(parts(), state.replace(exploration_noise=jnp.float32(1e6)), views, batch, KEY)
    noise = 0.3 * jnp.sign(jax.random.normal(KEY, action.shape))
    smoothed = networks.critic.apply(others["critic"], z, jnp.clip(action + noise, -1.0, 1.0)).min(0)
    expected = np.asarray(smoothed)[time == 0]
    np.testing.assert_allclose(loud[time == 0], (3.0 + 0.125 * 4.0 * expected) / 2.0, rtol=1e-4)


def test_all_is_copied_in_every_third_update():
    batch = make_batch(parts().method, 6)._replace(reward_scale=np.float32(0.25))
    state = with_scales(start(), 3.0, 5.0).replace(params=start(1).params)
    for updates in (1, 2, 4, 5):
        assert_trees_equal(copy_targets(parts(), state.replace(updates=jnp.int32(updates)), batch).target, state.target)
    for updates in (0, 3, 6):
        copied = copy_targets(parts(), state.replace(updates=jnp.int32(updates)), batch).target
        for name in ("torso", "critic", "actor"):
            assert_trees_equal(copied[name], state.params[name])
        assert (float(copied["reward_scale"]["online"]), float(copied["reward_scale"]["target"])) == (0.25, 3.0)
    nothing = copy_targets(parts(), state, batch._replace(reward_scale=np.float32(0.0))).target
    assert float(nothing["reward_scale"]["online"]) == 1.0


def test_values_are_in_units_of_the_reward():
    learner, batch = make_learner(A, RATE, parts().method, parts().config), make_batch(parts().method, 8)
    one, three = (learner.value(with_scales(start(), x, 1.0), batch.observation, batch.action) for x in (1.0, 3.0))
    assert one.shape == (B,) and np.abs(one).max() > 0
    np.testing.assert_allclose(three, 3.0 * np.asarray(one), rtol=1e-6)


def test_the_actor_learns_without_noise_and_acts_with_it():
    policy, u = parts().method.policy, jnp.array([[0.3, -2.0]])
    action, log_prob = policy.improve(KEY, u, jnp.float32(0.2))
    np.testing.assert_array_equal(action, jnp.tanh(u))
    assert log_prob.tolist() == [0.0]
    for noisy in (policy.sample(KEY, u, jnp.float32(0.2))[0], policy.explore(KEY, u, jnp.float32(0.2))):
        assert np.abs(noisy - action).max() > 1e-3


@pytest.mark.parametrize(("augment", "said"), [({"kind": "crop"}, "brings its own"), ({"size": 9}, "keeps the images")])
def test_other_augmentations_are_refused(augment, said):
    with pytest.raises(ConfigError, match=said):
        make_method("mrq", AugmentConfig(**augment), SIZE, "translate")


def test_the_critics_loss_trains_the_q_heads_alone():
    moments = start().critic_opt[0].mu
    assert jax.tree.map(jnp.shape, moments) == {"heads": jax.tree.map(jnp.shape, start().params["critic"]["heads"])}
