"""The learner against an independent float64 one in Torch, its invariants, and a problem with a known optimum.

B batch, H W image, C channels, A action.
"""

from __future__ import annotations

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from covr_jax.agents import Method, augment, make_learner
from covr_jax.agents.methods.rad import random_translate
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.agents.networks import delta_orthogonal, make_networks
from covr_jax.agents.updates import update_target
from covr_jax.config import SACConfig
from covr_jax.types import Batch, Prior

torch = pytest.importorskip("torch")

B, SIZE, CANVAS, CHANNELS, A = 6, 12, 14, 6, 2
RATE = 1e-3
CONFIG = SACConfig(
    hidden_dim=8,
    feature_dim=5,
    num_filters=3,
    conv_kernels=(4, 3),
    conv_strides=(2, 1),
    alpha_learning_rate=1e-2,
    discount=0.9,
)


def make_batch(seed=0, batch=B, action_dim=A):
    g = np.random.default_rng(seed)
    image = (batch, SIZE, SIZE, CHANNELS)
    return Batch(
        observation=g.integers(0, 256, image, dtype=np.uint8),
        action=g.uniform(-1, 1, (batch, action_dim)).astype(np.float32),
        reward=g.uniform(0, 8, batch).astype(np.float32),
        discount=(g.random(batch) > 0.3).astype(np.float32),
        next_observation=g.integers(0, 256, image, dtype=np.uint8),
        prior=Prior(g.uniform(-1, 1, (batch, action_dim)).astype(np.float32), g.random(batch) > 0.4),
    )


@pytest.fixture(scope="module")
def setup():
    """A learner, its compiled update, and a state whose optimisers have seen some gradients."""
    learner = make_learner(A, RATE, Method(random_translate(SIZE, CANVAS)), CONFIG)
    update = {flag: jax.jit(partial(learner.update, with_actor=flag)) for flag in (False, True)}
    state = learner.init(jax.random.key(0), np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8), jnp.zeros((1, A)))
    state = state.replace(guidance_weight=jnp.asarray(0.7, jnp.float32))
    for number in range(6):
        state, _ = update[number % 2 == 0](state, make_batch(number), jax.random.key(number))
    return learner, update, state


# ------------------------------------------------------------ the oracle, float64


def to_torch(tree):
    return jax.tree.map(lambda x: torch.tensor(np.asarray(x, np.float64)), tree)


def torso(p, images):
    x = images.permute(0, 3, 1, 2) / 255.0
    for index, stride in enumerate(CONFIG.conv_strides):
        layer = p[f"conv_{index}"]
        x = torch.relu(torch.nn.functional.conv2d(x, layer["kernel"].permute(3, 2, 0, 1), layer["bias"], stride))
    return x.permute(0, 2, 3, 1).flatten(1)


def encode(p, x):
    x = x @ p["linear"]["kernel"] + p["linear"]["bias"]
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return x * p["norm"]["scale"] + p["norm"]["bias"]


def mlp(p, x):
    for index in range(3):
        x = x @ p[f"Dense_{index}"]["kernel"] + p[f"Dense_{index}"]["bias"]
        x = torch.relu(x) if index < 2 else x
    return x


def critic(p, features, action):
    x = torch.cat([encode(p["encoder"], features), action], -1)
    return torch.stack([mlp(jax.tree.map(lambda leaf: leaf[i], p["heads"]), x)[:, 0] for i in range(2)])  # noqa: B023


def policy(p, features, noise):
    mean, log_std = mlp(p["head"], encode(p["encoder"], features)).chunk(2, -1)
    log_std = CONFIG.log_std_min + 0.5 * (CONFIG.log_std_max - CONFIG.log_std_min) * (torch.tanh(log_std) + 1)
    u = mean + log_std.exp() * noise
    action = torch.tanh(u)
    normal = torch.distributions.Normal(mean, log_std.exp()).log_prob(u)
    return action, (normal - torch.log(4.0 / (u.exp() + (-u).exp()) ** 2)).sum(-1)


class Adam:
    """Kingma & Ba 2014, on a tree of tensors, going on from optax's moments."""

    def __init__(self, optax_state, rate, b1=0.9):
        adam = optax_state[0]
        self.count, self.mu, self.nu = int(adam.count), to_torch(adam.mu), to_torch(adam.nu)
        self.rate, self.b1 = rate, b1

    def step(self, params, grads):
        self.count += 1
        self.mu = jax.tree.map(lambda m, g: self.b1 * m + (1 - self.b1) * g, self.mu, grads)
        self.nu = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, self.nu, grads)
        first, second = 1 - self.b1**self.count, 1 - 0.999**self.count
        return jax.tree.map(
            lambda p, m, v: p - self.rate * (m / first) / ((v / second).sqrt() + 1e-8), params, self.mu, self.nu
        )


def gradient(loss, params):
    leaves, structure = jax.tree.flatten(params)
    leaves = [leaf.clone().requires_grad_() for leaf in leaves]
    value, aux = loss(jax.tree.unflatten(structure, leaves))
    return jax.tree.unflatten(structure, torch.autograd.grad(value, leaves)), value.detach(), aux


def oracle_update(state, batch, key, with_actor):
    """One update written from the papers; returns (params, target, log_alpha, optimisers, metrics)."""
    augment_key, critic_key, actor_key = jax.random.split(key, 3)
    offsets = augment.random_offsets(augment_key, B, CANVAS - SIZE)
    place = [torch.tensor(np.asarray(augment.translate(x, offsets, CANVAS), np.float64)) for x in (batch[0], batch[4])]
    observation, following = place
    action, reward, discount = (
        torch.tensor(np.asarray(x, np.float64)) for x in (batch.action, batch.reward, batch.discount)
    )
    noise = {
        k: torch.tensor(np.asarray(jax.random.normal(key, (B, A)), np.float64))
        for k, key in (("critic", critic_key), ("actor", actor_key))
    }
    params, target = to_torch(state.params), to_torch(state.target)
    log_alpha = torch.tensor(float(state.log_alpha), dtype=torch.float64)
    alpha, metrics = log_alpha.exp(), {}
    optimisers = {"critic": Adam(state.critic_opt, RATE), "actor": Adam(state.actor_opt, RATE)}
    optimisers["alpha"] = Adam(state.alpha_opt, CONFIG.alpha_learning_rate, b1=0.5)

    with torch.no_grad():
        next_action, next_log_prob = policy(params["actor"], torso(params["torso"], following), noise["critic"])
        next_q = critic(target["critic"], torso(target["torso"], following), next_action)
        y = reward + CONFIG.discount * discount * (next_q.min(0).values - alpha * next_log_prob)

    def critic_loss(p):
        q = critic(p["critic"], torso(p["torso"], observation), action)
        return ((q - y) ** 2).mean(1).sum(), q.detach()

    trained = {"torso": params["torso"], "critic": params["critic"]}
    grads, value, q = gradient(critic_loss, trained)
    metrics |= {"losses/critic": value.item(), "sac/q_mean": q.mean().item(), "td_error": (q - y).abs().mean(0).numpy()}
    params = params | optimisers["critic"].step(trained, grads)
    if not with_actor:
        return params, target, log_alpha, optimisers, metrics

    features = torso(params["torso"], observation)
    prior, valid = torch.tensor(np.asarray(batch.prior.action, np.float64)), torch.tensor(batch.prior.valid)

    def actor_loss(p):
        sampled, log_prob = policy(p, features, noise["actor"])
        sac = (alpha * log_prob - critic(params["critic"], features, sampled).min(0).values).mean()
        guidance = (((sampled - prior) ** 2).sum(-1) * valid).sum() / B
        return sac + 0.7 * guidance, (sac.item(), guidance.item(), log_prob.detach())

    grads, _, (sac, guidance, log_prob) = gradient(actor_loss, params["actor"])
    params = params | {"actor": optimisers["actor"].step(params["actor"], grads)}
    gap = (-log_prob + A).mean()  # entropy minus its target of -A
    metrics |= {"losses/actor": sac, "losses/guidance": guidance, "losses/alpha": (alpha * gap).item()}
    metrics |= {"sac/alpha": alpha.item(), "sac/entropy": -log_prob.mean().item()}
    log_alpha = optimisers["alpha"].step(log_alpha, alpha * gap)

    def moved(old, new, tau):
        return jax.tree.map(lambda o, n: (1 - tau) * o + tau * n, old, new)

    target = {
        "torso": moved(target["torso"], params["torso"], 0.05),
        "critic": {
            "encoder": moved(target["critic"]["encoder"], params["critic"]["encoder"], 0.05),
            "heads": moved(target["critic"]["heads"], params["critic"]["heads"], 0.01),
        },
    }
    return params, target, log_alpha, optimisers, metrics


def assert_close(got, expected, what, rel=1e-4):
    """Every leaf to ``rel`` of its largest element."""
    paths = jax.tree_util.tree_leaves_with_path(got)
    wanted = jax.tree.leaves(expected)
    assert len(paths) == len(wanted) > 0
    for (path, leaf), want in zip(paths, wanted, strict=True):
        want = want.detach().numpy()
        assert leaf.shape == want.shape
        gap, largest = np.abs(np.asarray(leaf, np.float64) - want).max(), np.abs(want).max()
        assert gap <= rel * largest, f"{what}{jax.tree_util.keystr(path)}: {gap} of {largest}"


@pytest.mark.parametrize("with_actor", [False, True])
def test_one_full_update_equals_the_float64_oracle(setup, with_actor):
    _, update, state = setup
    batch, key = make_batch(50), jax.random.key(51)
    assert 0 < batch.discount.sum() < B and 0 < batch.prior.valid.sum() < B
    got, metrics = update[with_actor](state, batch, key)
    params, target, log_alpha, optimisers, expected = oracle_update(state, batch, key, with_actor)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, err_msg=name)
    assert_close(got.params, params, "params")
    assert_close(got.target, target, "target")
    for name, states in (("critic", got.critic_opt), ("actor", got.actor_opt), ("alpha", got.alpha_opt)):
        if with_actor or name == "critic":
            assert int(states[0].count) == optimisers[name].count
            assert_close(states[0].mu, optimisers[name].mu, f"{name} mu")
            assert_close(states[0].nu, optimisers[name].nu, f"{name} nu")
    assert float(got.log_alpha) == pytest.approx(log_alpha.item(), rel=1e-5)
    # What the step did, not only where it ended: the steps are a thousandth of the parameters.
    step = jax.tree.map(
        lambda new, old: np.asarray(new, np.float64) - np.asarray(old, np.float64), got.params, state.params
    )
    wanted = jax.tree.map(lambda new, old: new - torch.tensor(np.asarray(old, np.float64)), params, state.params)
    moved = step if with_actor else {name: step[name] for name in ("torso", "critic")}
    assert_close(moved, {name: wanted[name] for name in moved}, "step", rel=5e-3)  # float32 ulps of params near 1
    assert int(got.updates) == int(state.updates) + 1


def with_weight(state, weight):
    """Guidance weight as the loop sets it: strongly typed."""
    return state.replace(guidance_weight=jnp.asarray(weight, jnp.float32))


def leaves_equal(one, two):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def test_the_critics_step_leaves_actor_temperature_and_targets_alone(setup):
    _, update, state = setup
    after, _ = update[False](state, make_batch(60), jax.random.key(1))
    for name in ("target", "actor_opt", "log_alpha", "alpha_opt"):
        assert leaves_equal(getattr(after, name), getattr(state, name)), name
    assert leaves_equal(after.params["actor"], state.params["actor"])
    assert not leaves_equal(after.params["torso"], state.params["torso"])


def test_the_actors_step_reaches_neither_torso_nor_critic(setup):
    _, update, state = setup
    batch, key = make_batch(61), jax.random.key(2)
    without, _ = update[False](state, batch, key)
    pulled, _ = update[True](with_weight(state, 100.0), batch, key)
    for name in ("torso", "critic"):
        for one, two in zip(jax.tree.leaves(pulled.params[name]), jax.tree.leaves(without.params[name]), strict=True):
            # A leak would move Adam's moments, and with them every weight, by about the learning rate.
            np.testing.assert_allclose(one, two, rtol=0, atol=1e-3 * RATE)
    assert not leaves_equal(pulled.params["actor"], without.params["actor"])


def test_a_termination_hides_what_follows(setup):
    _, update, state = setup
    batch = make_batch(62)._replace(discount=np.zeros(B, np.float32))
    one, _ = update[False](state, batch, jax.random.key(3))
    two, _ = update[False](state, batch._replace(next_observation=make_batch(63).next_observation), jax.random.key(3))
    assert leaves_equal(one, two)
    alive = batch._replace(discount=np.ones(B, np.float32))
    three, _ = update[False](state, alive, jax.random.key(3))
    assert not leaves_equal(one.params, three.params)


def test_target_rates_are_those_of_sac_ae(setup):
    _, _, state = setup
    ones, zeros = jax.tree.map(jnp.ones_like, state.params), jax.tree.map(jnp.zeros_like, state.target)
    moved = update_target(CONFIG.resolved(1e-3), state.replace(params=ones, target=zeros)).target
    for tree, rate in ((moved["torso"], 0.05), (moved["critic"]["encoder"], 0.05), (moved["critic"]["heads"], 0.01)):
        for leaf in jax.tree.leaves(tree):
            np.testing.assert_allclose(leaf, rate, rtol=1e-6)


def test_without_weight_a_prior_changes_not_one_bit(setup):
    _, update, state = setup
    state = with_weight(state, 0.0)
    batch = make_batch(64)
    absent = batch._replace(prior=Prior(np.zeros((B, A), np.float32), np.zeros(B, bool)))
    present = batch._replace(prior=batch.prior._replace(valid=np.ones(B, bool)))
    (one, metrics), (two, other) = (update[True](state, b, jax.random.key(4)) for b in (absent, present))
    assert leaves_equal(one, two)
    assert float(metrics["losses/guidance"]) == 0.0 < float(other["losses/guidance"])


def test_with_weight_and_no_valid_prior_nothing_changes_either(setup):
    _, update, state = setup
    batch = make_batch(65)
    absent = batch._replace(prior=Prior(np.zeros((B, A), np.float32), np.zeros(B, bool)))
    one, _ = update[True](with_weight(state, 0.0), absent, jax.random.key(5))
    two, _ = update[True](with_weight(state, 50.0), absent, jax.random.key(5))
    assert leaves_equal(one.params, two.params)


def test_guidance_pulls_the_actor_towards_the_prior(setup):
    learner, update, state = setup
    prior = Prior(np.tile([[0.9, -0.9]], (B, 1)).astype(np.float32), np.ones(B, bool))
    batch = make_batch(66)._replace(prior=prior)
    gaps = {}
    for weight in (0.0, 30.0):
        pulled = with_weight(state, weight)
        for number in range(150):
            pulled, _ = update[True](pulled, batch, jax.random.key(number))
        gaps[weight] = float(np.abs(learner.act(pulled, batch.observation) - prior.action).mean())
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


def test_acting(setup):
    learner, _, state = setup
    observation = make_batch(68).observation
    mean = learner.act(state, observation)
    np.testing.assert_array_equal(mean, learner.act(state, observation))
    sampled = [learner.act(state, observation, jax.random.key(k)) for k in (0, 0, 1)]
    np.testing.assert_array_equal(sampled[0], sampled[1])
    assert (sampled[0] != sampled[2]).all() and (sampled[0] != mean).all()
    assert mean.shape == (B, A) and mean.dtype == jnp.float32 and np.abs(mean).max() <= 1
    # The mean action by the oracle's networks, with the image centred.
    centred = torch.tensor(np.pad(observation, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64))
    params = to_torch(state.params)
    mean64, _ = mlp(params["actor"]["head"], encode(params["actor"]["encoder"], torso(params["torso"], centred))).chunk(
        2, -1
    )
    np.testing.assert_allclose(mean, np.tanh(mean64.numpy()), atol=1e-5)


def test_entropy_is_minus_the_log_density_of_a_sample(setup):
    learner, _, state = setup
    observation = make_batch(69).observation
    centred = torch.tensor(np.pad(observation, ((0, 0), (1, 1), (1, 1), (0, 0))).astype(np.float64))
    noise = torch.tensor(np.asarray(jax.random.normal(jax.random.key(8), (B, A)), np.float64))
    params = to_torch(state.params)
    _, log_prob = policy(params["actor"], torso(params["torso"], centred), noise)
    np.testing.assert_allclose(learner.entropy(state, observation, jax.random.key(8)), -log_prob.numpy(), rtol=1e-4)


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


# -------------------------------------------------------------------- networks


def test_delta_orthogonal_is_orthogonal_at_the_centre_and_zero_elsewhere():
    kernel = np.array(delta_orthogonal(jax.random.key(0), (3, 3, 9, 32)))
    centre = kernel[1, 1]
    np.testing.assert_allclose(centre @ centre.T, 2.0 * np.eye(9), atol=1e-5)  # the ReLU gain, squared
    kernel[1, 1] = 0.0
    assert (kernel == 0.0).all()
    square = np.asarray(delta_orthogonal(jax.random.key(1), (3, 3, 32, 32)))[1, 1]
    np.testing.assert_allclose(square.T @ square, 2.0 * np.eye(32), atol=1e-5)


def test_initialisation_is_sac_aes(setup):
    learner, _, _ = setup
    state = learner.init(jax.random.key(3), np.zeros((1, SIZE, SIZE, CHANNELS), np.uint8), jnp.zeros((1, A)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(state.params):
        if path[-1].key == "bias":
            assert (np.asarray(leaf) == 0.0).all()
    heads = np.asarray(state.params["critic"]["heads"]["Dense_1"]["kernel"])
    np.testing.assert_allclose(heads[0] @ heads[0].T, np.eye(8), atol=1e-5)
    assert (heads[0] != heads[1]).any()  # twins, not copies
    assert leaves_equal(state.target, {name: state.params[name] for name in ("torso", "critic")})
    assert float(jnp.exp(state.log_alpha)) == pytest.approx(0.1)
    assert float(state.guidance_weight) == 0.0 and int(state.updates) == 0


def test_log_std_stays_in_its_range():
    networks = make_networks(A, num_filters=3, feature_dim=5, hidden_dim=8, log_std_range=(-10.0, 2.0))
    params = networks.actor.init(jax.random.key(0), jnp.zeros((1, 7)))
    features = np.random.default_rng(0).normal(size=(16, 7)).astype(np.float32)
    for bias, expected in ((100.0, 2.0), (-100.0, -10.0), (0.0, -4.0)):
        changed = copy.deepcopy(params)
        last = changed["head"]["Dense_2"]
        changed["head"]["Dense_2"] = {
            "kernel": last["kernel"] * (bias == 100.0),
            "bias": jnp.full_like(last["bias"], bias),
        }
        np.testing.assert_allclose(networks.actor.apply(changed, features)[1], expected, atol=1e-5)


# -------------------------------------------------------------- a known optimum


def test_a_bandit_is_solved():
    """One image, reward 1 - (a - 0.3)^2, every step an end: the mean action must be 0.3 and Q the reward."""
    config = SACConfig(
        hidden_dim=32,
        feature_dim=8,
        num_filters=4,
        conv_kernels=(3, 3),
        conv_strides=(2, 2),
        alpha_learning_rate=3e-3,
        init_temperature=0.01,
    )
    learner = make_learner(1, 3e-3, Method(no_augmentation()), config)
    image = np.broadcast_to(make_batch().observation[:1], (32, SIZE, SIZE, CHANNELS))
    state = learner.init(jax.random.key(0), image[:1], jnp.zeros((1, 1)))
    update = jax.jit(partial(learner.update, with_actor=True), donate_argnums=0)
    g = np.random.default_rng(0)
    for number in range(400):
        action = g.uniform(-1, 1, (32, 1)).astype(np.float32)
        reward = 1 - (action[:, 0] - 0.3) ** 2
        none = Prior(np.zeros((32, 1), np.float32), np.zeros(32, bool))
        batch = Batch(image, action, reward, np.zeros(32, np.float32), image, none)
        state, metrics = update(state, batch, jax.random.key(number))
    assert abs(float(learner.act(state, image[:1])[0, 0]) - 0.3) < 0.1
    assert float(metrics["losses/critic"]) < 0.02
    assert update._cache_size() == 1
