"""The pixel learner: pure ``init / act / update`` for any ``Method``.

Update order of SAC-AE and RAD: critic (with the shared convolutions) every step, then the method's auxiliary loss;
actor, temperature and targets every ``actor_update_every`` steps. The actor sees the convolutions' features without a
gradient into them. COVR's guidance (Eq. 4) is always part of the actor loss; a base method runs with weight 0 and no
valid prior, so that COVR and its base are the same compiled program until the guidance opens.
Letters: B batch, A action, V views of an image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from covr_jax.agents import losses
from covr_jax.agents.method import (
    Auxiliary,
    AuxiliaryParams,
    Method,
    Metrics,
    Views,
    build_networks,
    no_auxiliary,
    same_action,
)
from covr_jax.agents.networks import Networks, Params, init_networks
from covr_jax.config import SACConfig
from covr_jax.covr.guidance import guidance_loss
from covr_jax.types import Array, Batch


class LearnerState(flax.struct.PyTreeNode):
    """All that learning carries; every leaf strongly typed, or the compiled step would be traced twice."""

    params: dict[str, Params]  # torso, actor, critic, auxiliary
    target: dict[str, Params]  # torso, critic; auxiliary where that has averaged parts
    critic_opt: Any  # over torso and critic, and over auxiliary where the critic reads embedded actions
    actor_opt: Any
    auxiliary_opt: Any  # over torso, the critic's encoder and auxiliary; empty for methods without such a loss
    log_alpha: Array  # f32
    alpha_opt: Any
    guidance_weight: Array  # f32, lambda of Eq. 4; 0 before the gate opens and for methods without a VLM
    exploration_noise: Array  # f32, standard deviation; read by deterministic policies alone
    updates: Array  # i32


class Learner(NamedTuple):
    """Pure functions; compile them where programs are made."""

    init: Callable[[Array, Array, Array], LearnerState]
    act: Callable[..., Array]
    entropy: Callable[..., Array]
    mean_entropy: Callable[..., Array]
    value: Callable[[LearnerState, Array, Array], Array]
    update: Callable[..., tuple[LearnerState, Metrics]]


class _Parts(NamedTuple):
    """What the steps of an update share."""

    method: Method
    networks: Networks
    auxiliary: Auxiliary
    optimiser: optax.GradientTransformation
    alpha_optimiser: optax.GradientTransformation
    auxiliary_optimiser: optax.GradientTransformation
    config: SACConfig

    def actor(self, params: dict[str, Params], features: Array, previous_action: Array | None) -> Any:
        """The actor's outputs; residual actors read the action before."""
        inputs = (previous_action,) if self.method.residual else ()
        return self.networks.actor.apply(params["actor"], features, *inputs)

    def q(self, critic: Params, auxiliary: Params, features: Array, action: Array) -> Array:
        """Both critics' values f32[2,B]."""
        return self.networks.critic.apply(critic, features, self.auxiliary.embed_action(auxiliary, action))


def make_learner(action_dim: int, learning_rate: float, method: Method, config: SACConfig) -> Learner:
    """The functions that train one method.

    Args:
      action_dim: A. learning_rate: of critic, actor and encoder. config: everything else.

    Returns:
      ``init(key, observation u8[1,H,W,C], action f32[1,A])``,
      ``act(state, observation u8[B,H,W,C], key=None, previous_action=None) -> f32[B,A]`` (without a key the mean),
      ``entropy(state, observation, key, previous_action=None) -> f32[B]`` (one-sample estimate -log pi(a|s), nats),
      ``mean_entropy(state, observation, previous_action=None) -> f32[B]`` (its mean, without samples),
      ``value(state, observation, action) -> f32[B]``, min_i Q_i(s, a),
      ``update(state, batch, key, *, with_actor: bool) -> (state, metrics)``; the metrics are scalars but for
      ``td_error`` f32[B].
      ``previous_action`` f32[B,A] is read by residual methods alone.
    """
    networks = build_networks(method, action_dim, config)
    auxiliary = (method.auxiliary or no_auxiliary)(networks, method.augmentation, action_dim, config)
    auxiliary_rate = config.auxiliary_learning_rate
    parts = _Parts(
        method=method,
        networks=networks,
        auxiliary=auxiliary,
        optimiser=optax.adam(learning_rate),
        alpha_optimiser=optax.adam(config.alpha_learning_rate, b1=config.alpha_beta1),
        auxiliary_optimiser=optax.adam(learning_rate if auxiliary_rate is None else auxiliary_rate),
        config=config,
    )

    def init(key: Array, observation: Array, action: Array) -> LearnerState:
        return _init(parts, key, observation, action)

    def policy(state: LearnerState, observation: Array, previous_action: Array | None) -> Any:
        features = networks.torso.apply(state.params["torso"], method.augmentation.center(observation))
        return parts.actor(state.params, features, previous_action)

    def act(
        state: LearnerState, observation: Array, key: Array | None = None, previous_action: Array | None = None
    ) -> Array:
        outputs = policy(state, observation, previous_action)
        if key is None:
            return method.policy.mode(outputs)
        return method.policy.explore(key, outputs, state.exploration_noise)

    def entropy(state: LearnerState, observation: Array, key: Array, previous_action: Array | None = None) -> Array:
        return method.policy.entropy(key, policy(state, observation, previous_action), state.exploration_noise)

    def mean_entropy(state: LearnerState, observation: Array, previous_action: Array | None = None) -> Array:
        return method.policy.mean_entropy(policy(state, observation, previous_action), state.exploration_noise)

    def value(state: LearnerState, observation: Array, action: Array) -> Array:
        features = networks.torso.apply(state.params["torso"], method.augmentation.center(observation))
        return parts.q(state.params["critic"], state.params["auxiliary"], features, action).min(0)

    def update(state: LearnerState, batch: Batch, key: Array, *, with_actor: bool) -> tuple[LearnerState, Metrics]:
        # A key of its own for the auxiliary loss, so that methods with and without one draw the same numbers elsewhere.
        auxiliary_key = jax.random.fold_in(jax.random.clone(key), 3)
        augment_key, critic_key, actor_key = jax.random.split(key, 3)
        views = method.augmentation.augment(augment_key, batch.observation, batch.next_observation)
        state, metrics = _update_critic(parts, state, views, batch, critic_key)
        if method.auxiliary is not None:
            state, more = _update_auxiliary(parts, state, views, batch, auxiliary_key)
            metrics |= more
        if with_actor:
            state, more = _update_actor(parts, state, views, batch, actor_key)
            state = _update_target(config, state)
            metrics |= more
        return state.replace(updates=state.updates + 1), metrics

    return Learner(init, act, entropy, mean_entropy, value, update)


def _init(parts: _Parts, key: Array, observation: Array, action: Array) -> LearnerState:
    networks, config = parts.networks, parts.config
    images = parts.method.augmentation.center(observation)
    auxiliary_key = jax.random.fold_in(jax.random.clone(key), 3)
    # The torso's features have the same shape whatever its parameters are.
    shape = jax.eval_shape(lambda x: networks.torso.apply(networks.torso.init(jax.random.key(0), x), x), images)
    auxiliary = parts.auxiliary.init(auxiliary_key, jnp.zeros(shape.shape, shape.dtype), action)
    embedded = parts.auxiliary.embed_action(auxiliary, action)
    params = init_networks(networks, key, images, embedded, *((action,) if parts.method.residual else ()))
    params["auxiliary"] = auxiliary
    log_alpha = jnp.log(jnp.asarray(config.init_temperature, jnp.float32))
    followed = {"torso": params["torso"], "critic": params["critic"]}
    if ema_params := {name: auxiliary[name] for name in parts.auxiliary.ema_params}:
        followed["auxiliary"] = ema_params
    return LearnerState(
        params=params,
        target=jax.tree.map(jnp.copy, followed),
        critic_opt=parts.optimiser.init(_fitted(parts, params)),
        actor_opt=parts.optimiser.init(params["actor"]),
        auxiliary_opt=parts.auxiliary_optimiser.init(_auxiliary_params(params)) if parts.method.auxiliary else {},
        log_alpha=log_alpha,
        alpha_opt=parts.alpha_optimiser.init(log_alpha),
        guidance_weight=jnp.zeros((), jnp.float32),
        exploration_noise=jnp.asarray(config.noise_start, jnp.float32),
        updates=jnp.zeros((), jnp.int32),
    )


def _fitted(parts: _Parts, params: dict[str, Params]) -> dict[str, Params]:
    """What the critic's loss moves."""
    embeds = parts.auxiliary.embed_action is not same_action
    return {name: params[name] for name in ("torso", "critic", *(("auxiliary",) if embeds else ()))}


def _auxiliary_params(params: dict[str, Params]) -> AuxiliaryParams:
    return AuxiliaryParams(params["torso"], params["critic"]["encoder"], params["auxiliary"])


def concat_views(views: tuple[Array, ...]) -> Array:
    """The views one after the other, [V*B,...], for one pass through a network."""
    return views[0] if len(views) == 1 else jnp.concatenate(views)


def repeat_for_views(x: Array, views: int) -> Array:
    """The same rows for every view, [V*B,...]."""
    return x if views == 1 else jnp.tile(x, (views, *[1] * (x.ndim - 1)))


def _targets(parts: _Parts, state: LearnerState, views: Views, batch: Batch, key: Array) -> Array:
    """Y f32[B]: the mean over the views of the next observation (DrQ's M; one elsewhere)."""
    params, config, count = state.params, parts.config, len(views.next_observation)
    images = concat_views(views.next_observation)
    features = parts.networks.torso.apply(params["torso"], images)
    outputs = parts.actor(params, features, repeat_for_views(batch.action, count))
    next_action, next_log_prob = parts.method.policy.sample(key, outputs, state.exploration_noise)
    target_features = parts.networks.torso.apply(state.target["torso"], images)
    next_q = parts.q(state.target["critic"], params["auxiliary"], target_features, next_action)
    reward, discount = repeat_for_views(batch.reward, count), repeat_for_views(batch.discount, count)
    y = losses.soft_target(reward, discount, next_q, next_log_prob, jnp.exp(state.log_alpha), config.discount)
    return y if count == 1 else y.reshape(count, -1).mean(0)


def _update_critic(
    parts: _Parts, state: LearnerState, views: Views, batch: Batch, key: Array
) -> tuple[LearnerState, Metrics]:
    params, weights = state.params, parts.method.view_weights
    y = _targets(parts, state, views, batch, key)

    def loss(trained: dict[str, Params]) -> tuple[Array, Array]:
        features = parts.networks.torso.apply(trained["torso"], concat_views(views.observation))
        auxiliary = trained.get("auxiliary", params["auxiliary"])
        q = parts.q(trained["critic"], auxiliary, features, repeat_for_views(batch.action, len(weights)))
        per_view = jnp.split(q, len(weights), axis=1) if len(weights) > 1 else [q]
        value = sum(w * losses.critic_loss(part, y, batch.weight) for w, part in zip(weights, per_view, strict=True))
        return value, per_view[0]

    trained = _fitted(parts, params)
    (value, q), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    updates, critic_opt = parts.optimiser.update(grads, state.critic_opt, trained)
    trained = optax.apply_updates(trained, updates)
    state = state.replace(params=params | trained, critic_opt=critic_opt)
    td_error = jnp.abs(q - y[None]).mean(0)
    return state, {"losses/critic": value, "sac/q_mean": q.mean(), "td_error": td_error}


def _update_auxiliary(
    parts: _Parts, state: LearnerState, views: Views, batch: Batch, key: Array
) -> tuple[LearnerState, Metrics]:
    def loss(trained: AuxiliaryParams) -> tuple[Array, Metrics]:
        return parts.auxiliary.loss(trained, state.target, views, batch, key)

    trained = _auxiliary_params(state.params)
    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    updates, auxiliary_opt = parts.auxiliary_optimiser.update(grads, state.auxiliary_opt, trained)
    moved = optax.apply_updates(trained, updates)
    critic = state.params["critic"] | {"encoder": moved.encoder}
    params = state.params | {"torso": moved.torso, "critic": critic, "auxiliary": moved.auxiliary}
    return state.replace(params=params, auxiliary_opt=auxiliary_opt), {"losses/auxiliary": value} | metrics


def _update_actor(
    parts: _Parts, state: LearnerState, views: Views, batch: Batch, key: Array
) -> tuple[LearnerState, Metrics]:
    """L_pi + lambda ||a_v - a_r||^2 (COVR Eq. 4), then the temperature."""
    params, policy = state.params, parts.method.policy
    features = parts.networks.torso.apply(params["torso"], views.observation[0])
    alpha = jnp.exp(state.log_alpha)

    def loss(actor: Params) -> tuple[Array, tuple[Array, Array, Array]]:
        outputs = parts.actor({"actor": actor}, features, batch.previous_action)
        action, log_prob = policy.sample(key, outputs, state.exploration_noise)
        q = parts.q(params["critic"], params["auxiliary"], features, action)
        valid = batch.prior.valid
        if parts.config.prior_gate == "advantage":
            theirs = parts.q(params["critic"], params["auxiliary"], features, batch.prior.action)
            valid = valid & (theirs.min(0) > q.min(0))
        guidance = guidance_loss(action, batch.prior.action, valid)
        base = losses.actor_loss(q, log_prob, alpha)
        return base + state.guidance_weight * guidance, (base, log_prob, guidance)

    (_, (base, log_prob, guidance)), grads = jax.value_and_grad(loss, has_aux=True)(params["actor"])
    updates, actor_opt = parts.optimiser.update(grads, state.actor_opt, params["actor"])
    actor = optax.apply_updates(params["actor"], updates)
    state = state.replace(params=params | {"actor": actor}, actor_opt=actor_opt)
    metrics = {"losses/actor": base, "losses/guidance": guidance}
    if not policy.entropy_regularised:
        return state, metrics | {"sac/exploration_noise": state.exploration_noise}
    state, value = _update_temperature(parts, state, log_prob, batch.action.shape[-1])
    metrics |= {"losses/alpha": value, "sac/alpha": alpha, "sac/entropy": -log_prob.mean()}
    return state, metrics


def _update_temperature(
    parts: _Parts, state: LearnerState, log_prob: Array, action_dim: int
) -> tuple[LearnerState, Array]:
    value, grad = jax.value_and_grad(losses.alpha_loss)(state.log_alpha, log_prob, -float(action_dim))
    updates, alpha_opt = parts.alpha_optimiser.update(grad, state.alpha_opt, state.log_alpha)
    return state.replace(log_alpha=optax.apply_updates(state.log_alpha, updates), alpha_opt=alpha_opt), value


def _update_target(config: SACConfig, state: LearnerState) -> LearnerState:
    """theta_bar <- (1 - tau) theta_bar + tau theta; tau differs for convolutions, encoder and Q heads (SAC-AE)."""

    def move(target: Params, online: Params, tau: float) -> Params:
        return jax.tree.map(lambda t, o: (1.0 - tau) * t + tau * o, target, online)

    online, target = state.params, state.target
    encoder = move(target["critic"]["encoder"], online["critic"]["encoder"], config.encoder_tau)
    heads = move(target["critic"]["heads"], online["critic"]["heads"], config.critic_tau)
    torso = move(target["torso"], online["torso"], config.encoder_tau if config.torso_tau is None else config.torso_tau)
    moved = {"torso": torso, "critic": {"encoder": encoder, "heads": heads}}
    if "auxiliary" in target:
        ema_params = {name: online["auxiliary"][name] for name in target["auxiliary"]}
        moved["auxiliary"] = move(target["auxiliary"], ema_params, config.encoder_tau)
    return state.replace(target=moved)
