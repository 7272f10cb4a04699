"""The pixel SAC learner: pure ``init / act / update`` for any method that states its augmentation.

Update order of SAC-AE and RAD: critic (with the shared convolutions) every step; actor, temperature and targets every
``actor_update_every`` steps. The actor sees the convolutions' features without a gradient into them.
COVR's guidance (Eq. 4) is always part of the actor loss; a base method runs with weight 0 and no valid prior, so that
COVR and its base are the same compiled program until the guidance opens. Letters: B batch, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from covr_jax.agents import losses
from covr_jax.agents.networks import Params, SACNetworks, init_networks, make_networks
from covr_jax.config import SACConfig
from covr_jax.covr.guidance import guidance_loss
from covr_jax.types import Array, Batch

Metrics = dict[str, Array]


class Augmentation(NamedTuple):
    """How a method changes images: at random for updates (obs and next_obs together), centred for acting."""

    augment: Callable[[Array, Array, Array], tuple[Array, Array]]  # (key, obs u8[B,...], next_obs) -> both
    center: Callable[[Array], Array]  # u8[B,H,W,C] -> u8[B,H',W',C]


class LearnerState(flax.struct.PyTreeNode):
    """All that learning carries; every leaf strongly typed, or the compiled step would be traced twice."""

    params: dict[str, Params]  # torso, actor, critic
    target: dict[str, Params]  # torso, critic
    critic_opt: Any  # over torso and critic
    actor_opt: Any
    log_alpha: Array  # f32
    alpha_opt: Any
    guidance_weight: Array  # f32, lambda of Eq. 4; 0 before the gate opens and for methods without a VLM
    updates: Array  # i32


class Learner(NamedTuple):
    """Pure functions; compile them where programs are made."""

    init: Callable[[Array, Array, Array], LearnerState]
    act: Callable[..., Array]
    entropy: Callable[[LearnerState, Array, Array], Array]
    update: Callable[..., tuple[LearnerState, Metrics]]


def make_learner(action_dim: int, learning_rate: float, augmentation: Augmentation, config: SACConfig) -> Learner:
    """Pixel SAC with an augmentation.

    Args:
      action_dim: A. learning_rate: of critic, actor and encoder. config: everything else.

    Returns:
      ``init(key, observation u8[1,H,W,C], action f32[1,A])``,
      ``act(state, observation u8[B,H,W,C], key=None) -> f32[B,A]`` (the mean without a key),
      ``entropy(state, observation, key) -> f32[B]`` (one-sample estimate -log pi(a|s), nats),
      ``update(state, batch, key, *, with_actor: bool) -> (state, metrics)``.
    """
    networks = make_networks(
        action_dim,
        num_filters=config.num_filters,
        conv_kernels=config.conv_kernels,
        conv_strides=config.conv_strides,
        frame_basis=config.frame_basis,
        feature_dim=config.feature_dim,
        hidden_dim=config.hidden_dim,
        log_std_range=(config.log_std_min, config.log_std_max),
        precision=config.precision,
    )
    optimiser = optax.adam(learning_rate)
    alpha_optimiser = optax.adam(config.alpha_learning_rate, b1=config.alpha_beta1)

    def init(key: Array, observation: Array, action: Array) -> LearnerState:
        params = init_networks(networks, key, augmentation.center(observation), action)
        log_alpha = jnp.log(jnp.asarray(config.init_temperature, jnp.float32))
        return LearnerState(
            params=params,
            target=jax.tree.map(jnp.copy, {"torso": params["torso"], "critic": params["critic"]}),
            critic_opt=optimiser.init({"torso": params["torso"], "critic": params["critic"]}),
            actor_opt=optimiser.init(params["actor"]),
            log_alpha=log_alpha,
            alpha_opt=alpha_optimiser.init(log_alpha),
            guidance_weight=jnp.zeros((), jnp.float32),
            updates=jnp.zeros((), jnp.int32),
        )

    def policy(params: dict[str, Params], observation: Array) -> tuple[Array, Array]:
        features = networks.torso.apply(params["torso"], augmentation.center(observation))
        return networks.actor.apply(params["actor"], features)

    def act(state: LearnerState, observation: Array, key: Array | None = None) -> Array:
        mean, log_std = policy(state.params, observation)
        return jnp.tanh(mean) if key is None else losses.squashed_sample(key, mean, log_std)[0]

    def entropy(state: LearnerState, observation: Array, key: Array) -> Array:
        return -losses.squashed_sample(key, *policy(state.params, observation))[1]

    def update(state: LearnerState, batch: Batch, key: Array, *, with_actor: bool) -> tuple[LearnerState, Metrics]:
        augment_key, critic_key, actor_key = jax.random.split(key, 3)
        observation, next_observation = augmentation.augment(augment_key, batch.observation, batch.next_observation)
        batch = batch._replace(observation=observation, next_observation=next_observation)
        state, metrics = _update_critic(networks, optimiser, config, state, batch, critic_key)
        if with_actor:
            state, actor_metrics = _update_actor(networks, optimiser, alpha_optimiser, state, batch, actor_key)
            state = _update_target(config, state)
            metrics |= actor_metrics
        return state.replace(updates=state.updates + 1), metrics

    return Learner(init, act, entropy, update)


def _update_critic(
    networks: SACNetworks,
    optimiser: optax.GradientTransformation,
    config: SACConfig,
    state: LearnerState,
    batch: Batch,
    key: Array,
) -> tuple[LearnerState, Metrics]:
    params, target = state.params, state.target
    mean, log_std = networks.actor.apply(
        params["actor"], networks.torso.apply(params["torso"], batch.next_observation)
    )
    next_action, next_log_prob = losses.squashed_sample(key, mean, log_std)
    next_q = networks.critic.apply(
        target["critic"], networks.torso.apply(target["torso"], batch.next_observation), next_action
    )
    y = losses.soft_target(
        batch.reward, batch.discount, next_q, next_log_prob, jnp.exp(state.log_alpha), config.discount
    )

    def loss(trained: dict[str, Params]) -> tuple[Array, Array]:
        features = networks.torso.apply(trained["torso"], batch.observation)
        q = networks.critic.apply(trained["critic"], features, batch.action)
        return losses.critic_loss(q, y), q

    trained = {"torso": params["torso"], "critic": params["critic"]}
    (value, q), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    updates, critic_opt = optimiser.update(grads, state.critic_opt, trained)
    trained = optax.apply_updates(trained, updates)
    state = state.replace(params=params | trained, critic_opt=critic_opt)
    return state, {"losses/critic": value, "sac/q_mean": q.mean()}


def _update_actor(
    networks: SACNetworks,
    optimiser: optax.GradientTransformation,
    alpha_optimiser: optax.GradientTransformation,
    state: LearnerState,
    batch: Batch,
    key: Array,
) -> tuple[LearnerState, Metrics]:
    """L_pi + lambda ||a_v - a_r||^2 (COVR Eq. 4), then the temperature."""
    features = networks.torso.apply(state.params["torso"], batch.observation)
    alpha = jnp.exp(state.log_alpha)

    def loss(actor: Params) -> tuple[Array, tuple[Array, Array, Array]]:
        action, log_prob = losses.squashed_sample(key, *networks.actor.apply(actor, features))
        q = networks.critic.apply(state.params["critic"], features, action)
        guidance = guidance_loss(action, batch.prior.action, batch.prior.valid)
        sac = losses.actor_loss(q, log_prob, alpha)
        return sac + state.guidance_weight * guidance, (sac, log_prob, guidance)

    (_, (sac, log_prob, guidance)), grads = jax.value_and_grad(loss, has_aux=True)(state.params["actor"])
    updates, actor_opt = optimiser.update(grads, state.actor_opt, state.params["actor"])
    actor = optax.apply_updates(state.params["actor"], updates)

    target_entropy = -float(batch.action.shape[-1])
    alpha_value, alpha_grad = jax.value_and_grad(losses.alpha_loss)(state.log_alpha, log_prob, target_entropy)
    alpha_updates, alpha_opt = alpha_optimiser.update(alpha_grad, state.alpha_opt, state.log_alpha)
    state = state.replace(
        params=state.params | {"actor": actor},
        actor_opt=actor_opt,
        log_alpha=optax.apply_updates(state.log_alpha, alpha_updates),
        alpha_opt=alpha_opt,
    )
    return state, {
        "losses/actor": sac,
        "losses/alpha": alpha_value,
        "losses/guidance": guidance,
        "sac/alpha": alpha,
        "sac/entropy": -log_prob.mean(),
    }


def _update_target(config: SACConfig, state: LearnerState) -> LearnerState:
    """theta_bar <- (1 - tau) theta_bar + tau theta; tau differs for encoder and Q heads (SAC-AE)."""

    def move(target: Params, online: Params, tau: float) -> Params:
        return jax.tree.map(lambda t, o: (1.0 - tau) * t + tau * o, target, online)

    online, target = state.params, state.target
    encoder = move(target["critic"]["encoder"], online["critic"]["encoder"], config.encoder_tau)
    heads = move(target["critic"]["heads"], online["critic"]["heads"], config.critic_tau)
    torso = move(target["torso"], online["torso"], config.encoder_tau)
    return state.replace(target={"torso": torso, "critic": {"encoder": encoder, "heads": heads}})
