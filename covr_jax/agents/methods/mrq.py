"""MR.Q (Fujimoto et al. 2025): Q-learning on features that a linear model of the MDP has learned.

z_s = f(s) and z_sa = g(z_s, a) are learned by one loss alone, which unrolls K = 5 steps of z~_0 = f(s_t) and
z~_k, r~_k, d~_k = m^T g(z~_{k-1}, a_{t+k-1}):

  L = sum_{k=1..K} 0.1 CE(r~_k, two-hot(r_{t+k})) + mean (z~_k - f'(s_{t+k}))^2 + 0.1 (d~_k - d_{t+k})^2,

d being 1 on termination. On these features, which their losses do not change, critic and actor minimise

  sum_i Huber(Q_i(z_sa) - (R_n + gamma^n rbar' min_j Q'_j(g'(f'(s_{t+n}), a'))) / rbar) and
  - mean_i Q_i(g(f(s), pi(s))) + 1e-5 mean u^2 with pi(s) = tanh(u(f(s))),

where n = 3, a' = clip(pi'(s_{t+n}) + clip(N(0, 0.2), +-0.3)) and rbar is the mean |reward| of the replay. Every 250
updates all is copied into the targets, marked by a prime, and rbar into rbar'. Transitions are sampled by LAP.

After the paper, not its code. Differences from it, and what has not been compared with it: docs/methods.md.
Letters: B batch, H W image, C channels, A action, K steps, F features.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covr_jax.agents import policies
from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Objective, Views
from covr_jax.agents.methods.drq import random_shifts
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.mrq import linear_model, make_networks
from covr_jax.config import SACConfig
from covr_jax.types import Batch

STEPS = 5  # K
BINS, LIMIT = 65, 10.0  # bins of a reward: symexp of equal steps from -LIMIT to LIMIT, that is rewards up to 22,025
REWARD_WEIGHT, TERMINAL_WEIGHT = 0.1, 0.1  # against 1 of the features
PRE_ACTIVATION_WEIGHT = 1e-5


def reward_bins() -> Float[np.ndarray, 65]:
    """Returns the rewards that the bins stand for: symexp(x) = sign(x) (e^|x| - 1)."""
    x = np.linspace(-LIMIT, LIMIT, BINS)
    return (np.sign(x) * np.expm1(np.abs(x))).astype(np.float32)


def two_hot(reward: Float[Array | np.ndarray, "*shape"]) -> Float[Array, "*shape 65"]:
    """Returns the distribution over the two bins around a reward whose mean it is; rewards beyond all are clipped."""
    bins = jnp.asarray(reward_bins())
    reward = jnp.clip(reward, bins[0], bins[-1])
    above = jnp.clip(jnp.sum(bins <= reward[..., None], axis=-1), 1, BINS - 1)
    share = ((reward - bins[above - 1]) / (bins[above] - bins[above - 1]))[..., None]
    return (1.0 - share) * jax.nn.one_hot(above - 1, BINS) + share * jax.nn.one_hot(above, BINS)


def cross_entropy(
    logits: Float[Array, "*shape bins"], distribution: Float[Array, "*shape bins"]
) -> Float[Array, "*shape"]:
    """Returns -sum_i p_i log softmax(logits)_i, nats."""
    return -jnp.sum(distribution * jax.nn.log_softmax(logits), axis=-1)


def critic_loss(
    q: Float[Array, "2 B"], target: Float[Array, " B"], weight: Float[Array | np.ndarray, " B"] | None = None
) -> Float[Array, ""]:
    """Returns sum_i mean_b w_b Huber(Q_i(s,a) - y): half the square up to an error of 1, linear beyond.

    Args:
      q: both critics' values.
      target: y.
      weight: importance weights w; None means 1.
    """
    size = jnp.abs(q - target[None])
    error = jnp.where(size < 1.0, 0.5 * size**2, size - 0.5)
    return jnp.sum(jnp.mean(error if weight is None else weight[None] * error, axis=1))


def actor_loss(
    q: Float[Array, "2 B"], log_prob: Float[Array, " B"], alpha: Float[Array, ""], outputs: Float[Array, "B A"]
) -> Float[Array, ""]:
    """Returns -1/2 mean_b sum_i Q_i(s, pi(s)) + 1e-5 mean u^2, u the actor's outputs before the tanh."""
    del log_prob, alpha
    return -jnp.mean(q) + PRE_ACTIVATION_WEIGHT * jnp.mean(outputs**2)


def linear_mdp(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Returns the encoders' loss as the auxiliary loss; its own parameters are m."""
    del action_dim
    size = config.feature_dim
    model = linear_model(BINS + size + 1)

    def init(key: Array, features: Array, action: Array) -> Params:
        del features, action
        return {"model": model.init(key, jnp.zeros((1, size)))}

    def loss(
        params: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        future = batch.future
        if future is None or future.reached is None or future.discount is None:
            raise ValueError("mrq needs batches with a future of 5 steps, its discounts and which steps were reached")
        images = augmentation.random(key, future.observation.reshape(-1, *batch.observation.shape[1:]))
        following = jax.lax.stop_gradient(networks.torso.apply(target["torso"], images)).reshape(STEPS, -1, size)
        rewards = two_hot(future.reward)
        z = networks.torso.apply(params.torso, views.observation[0])
        parts = []  # of the loss by step, each f32[3,B]
        for step, action in enumerate(future.action):
            pair = networks.features.apply(params.encoder, z, action)
            logits, z, end = jnp.split(model.apply(params.auxiliary["model"], pair), (BINS, BINS + size), axis=-1)
            dynamics = jnp.mean((z - following[step]) ** 2, axis=-1)
            terminal = (end[:, 0] - (1.0 - future.discount[step])) ** 2
            parts.append(jnp.stack([cross_entropy(logits, rewards[step]), dynamics, terminal]))
        reached = future.reached.astype(z.dtype)
        share = reached / jnp.maximum(reached.sum(axis=1, keepdims=True), 1.0)
        reward, dynamics, terminal = jnp.sum(jnp.stack(parts) * share[:, None], axis=(0, 2))
        metrics = {"losses/reward": reward, "losses/transition": dynamics, "losses/terminal": terminal}
        return REWARD_WEIGHT * reward + dynamics + TERMINAL_WEIGHT * terminal, metrics

    return Auxiliary(init, loss)


def make(spec: MethodSpec) -> Method:
    """Returns MR.Q on random shifts, or on the images as they are with the augmentation "none"."""
    if spec.augment.kind == "none":
        spec.refuse_augmentation()
        augmentation = no_augmentation()
    else:
        spec.refuse_other_augmentation()
        augmentation = random_shifts(spec.image_size)
    return Method(
        augmentation,
        networks=make_networks,
        policy=policies.smoothed_deterministic,
        objective=Objective(critic_loss, actor_loss, trains_encoder=False, copies_targets=True, scales_rewards=True),
        auxiliary=linear_mdp,
        horizon=STEPS,
    )
