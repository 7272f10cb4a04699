"""SAC's equations by hand, against change-of-variables oracles in float64, and their gradients. B batch, A action."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import losses


def oracle(key, mean, log_std):
    """Action and log-density in float64 from the same noise; the Jacobian without cancellation."""
    noise = np.asarray(jax.random.normal(key, mean.shape), np.float64)
    mean, log_std = np.asarray(mean, np.float64), np.asarray(log_std, np.float64)
    u = mean + np.exp(log_std) * noise
    normal = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    slope = 4.0 / (np.exp(u) + np.exp(-u)) ** 2  # d tanh(u) / du
    return np.tanh(u), (normal - np.log(slope)).sum(-1)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0, 30.0])
def test_log_prob_is_the_density_of_the_squashed_action(scale):
    generator = np.random.default_rng(0)
    mean = (scale * generator.normal(size=(64, 3))).astype(np.float32)
    log_std = generator.uniform(-5, 1, (64, 3)).astype(np.float32)
    action, log_prob = losses.squashed_sample(jax.random.key(1), mean, log_std)
    expected_action, expected = oracle(jax.random.key(1), mean, log_std)
    np.testing.assert_allclose(action, expected_action, atol=1e-6)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-4)
    if scale == 30.0:  # tanh has saturated: the naive log(1 - a^2) is minus infinity
        assert (np.abs(np.asarray(action)) == 1.0).mean() > 0.25


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, 0.0), (0.7, -1.0), (-1.5, 0.3)])
def test_the_density_integrates_to_one_over_the_actions(mean, log_std):
    # Importance sampling needs no formula: E[1 / p(a)] is the length of the support, and E[a^2 / p(a)] its moment.
    grid = np.linspace(-8.0, 8.0, 20_001)  # noise; the key's normals are replaced by quadrature
    u = mean + np.exp(log_std) * grid
    action = np.tanh(u)
    inside = np.abs(action) < 0.999
    key = jax.random.key(0)
    noise = float(jax.random.normal(key, (1, 1))[0, 0])
    # Shift the mean so that the sample lands on each grid point; the density there only depends on u, mean and sigma.
    shifted = (u - np.exp(log_std) * noise)[:, None].astype(np.float32)
    _, log_prob = jax.vmap(lambda m: losses.squashed_sample(key, m[None], jnp.full((1, 1), log_std)))(shifted)
    at_noise = np.asarray(log_prob, np.float64)[:, 0]
    # log p(a) = log N(grid) + (log-det term), of which the sample above has N(noise) instead of N(grid).
    log_density = at_noise + 0.5 * noise**2 - 0.5 * grid**2
    total = np.trapezoid(np.exp(log_density)[inside], action[inside])
    mass = np.trapezoid(np.exp(-0.5 * grid**2)[inside] / np.sqrt(2 * np.pi), grid[inside])
    assert mass > 0.8
    assert total == pytest.approx(mass, rel=1e-3)


@pytest.mark.parametrize("mean", [-80.0, -20.0, 20.0, 80.0])
def test_value_and_gradient_are_finite_where_tanh_saturates(mean):
    def log_prob(m, s):
        return losses.squashed_sample(jax.random.key(2), m, s)[1].sum()

    means, log_stds = jnp.full((4, 2), mean), jnp.full((4, 2), -1.0)
    value, (by_mean, by_log_std) = jax.value_and_grad(log_prob, (0, 1))(means, log_stds)
    assert np.isfinite(value)
    # log(1 - tanh(u)^2) -> 2 log 2 - 2|u|: the density rises by 2 per unit of u away from zero.
    np.testing.assert_allclose(by_mean, np.sign(mean) * 2.0, rtol=1e-5)
    noise = np.asarray(jax.random.normal(jax.random.key(2), (4, 2)))
    np.testing.assert_allclose(by_log_std, -1.0 + np.sign(mean) * 2.0 * np.exp(-1.0) * noise, rtol=1e-4, atol=1e-5)


def test_the_sample_is_reparameterised():
    key, mean, log_std = jax.random.key(3), jnp.array([[0.3, -0.2]]), jnp.array([[-0.5, 0.1]])
    noise = np.asarray(jax.random.normal(key, (1, 2)), np.float64)
    action = np.asarray(oracle(key, mean, log_std)[0])
    by_mean, by_log_std = jax.grad(lambda m, s: losses.squashed_sample(key, m, s)[0].sum(), (0, 1))(mean, log_std)
    np.testing.assert_allclose(by_mean, 1 - action**2, rtol=1e-5)
    np.testing.assert_allclose(by_log_std, (1 - action**2) * np.exp(np.asarray(log_std)) * noise, rtol=1e-5)


def test_soft_target_by_hand():
    y = losses.soft_target(
        reward=jnp.array([1.0, 1.0, -2.0]),
        discount=jnp.array([1.0, 0.0, 1.0]),  # the second transition terminates
        next_q=jnp.array([[3.0, 3.0, 5.0], [4.0, 4.0, -1.0]]),
        next_log_prob=jnp.array([2.0, 2.0, -1.0]),
        alpha=jnp.asarray(0.5),
        gamma=0.9,
    )
    np.testing.assert_allclose(y, [1 + 0.9 * (3 - 1), 1.0, -2 + 0.9 * (-1 + 0.5)], rtol=1e-6)


def test_soft_target_is_a_constant():
    ones = jnp.ones(2)
    grads = jax.grad(lambda r, q, p, a: losses.soft_target(r, ones, q, p, a, 0.9).sum(), argnums=(0, 1, 2, 3))(
        ones, jnp.ones((2, 2)), ones, jnp.asarray(0.3)
    )
    assert all((np.asarray(g) == 0).all() for g in grads)


def test_critic_loss_by_hand():
    q, y = jnp.array([[1.0, 2.0], [0.0, 5.0]]), jnp.array([0.0, 4.0])
    value, grad = jax.value_and_grad(losses.critic_loss)(q, y)
    assert float(value) == pytest.approx((1 + 4) / 2 + (0 + 1) / 2)
    np.testing.assert_allclose(grad, [[1.0, -2.0], [0.0, 1.0]])


def test_actor_loss_by_hand():
    q, log_prob = jnp.array([[1.0, 5.0], [3.0, 2.0]]), jnp.array([-1.0, 2.0])
    value, (by_q, by_log_prob, by_alpha) = jax.value_and_grad(losses.actor_loss, (0, 1, 2))(
        q, log_prob, jnp.asarray(0.2)
    )
    assert float(value) == pytest.approx(((-0.2 - 1.0) + (0.4 - 2.0)) / 2)
    np.testing.assert_allclose(by_q, [[-0.5, 0.0], [0.0, -0.5]])
    np.testing.assert_allclose(by_log_prob, [0.1, 0.1])
    assert float(by_alpha) == 0.0


def test_alpha_loss_by_hand():
    log_prob = jnp.array([1.0, 4.0])  # entropy -2.5, below the target of -2
    value, (by_log_alpha, by_log_prob) = jax.value_and_grad(losses.alpha_loss, (0, 1))(jnp.log(0.1), log_prob, -2.0)
    assert float(value) == pytest.approx(0.1 * -0.5)
    assert float(by_log_alpha) == pytest.approx(0.1 * -0.5)  # negative: descent raises alpha, and with it the entropy
    assert by_log_prob.tolist() == [0.0, 0.0]
