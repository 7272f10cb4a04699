"""The learner's state, the parts that its functions share, and initialisation.

Letters: B batch, H W image, C channels, A action, N torso features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array

from covr_jax.agents.method import Auxiliary, AuxiliaryParams, Method, build_networks, no_auxiliary, same_action
from covr_jax.agents.networks import Networks, Params, init_networks
from covr_jax.config import SACConfig, required


class LearnerState(flax.struct.PyTreeNode):
    """Everything that updates change. Every leaf is strongly typed, or the compiled update would be traced twice."""

    params: dict[str, Params]  # torso, actor, critic, auxiliary
    # torso, critic; auxiliary (and momentum: torso, encoder) where the method has ema_params; actor where targets are
    # copied; reward_scale (online, target: f32[] each, the units of the critics' values) where rewards are scaled
    target: dict[str, Params]
    critic_opt: Any  # Adam over ``critic_params``
    actor_opt: Any
    auxiliary_opt: Any  # Adam over AuxiliaryParams; empty for methods without an auxiliary loss
    log_alpha: Array  # f32[], natural logarithm of the temperature
    alpha_opt: Any
    guidance_weight: Array  # f32[], lambda of Eq. 4; 0 before the gate opens and for methods without a VLM
    exploration_noise: Array  # f32[], standard deviation; read by deterministic policies only
    updates: Array  # i32[], updates so far
    skipped: Array  # i32[], updates of which a part was skipped, because its gradient was not finite
    skipped_in_a_row: Array  # i32[], of them, those since the last whole update


class LearnerParts(NamedTuple):
    """What initialisation, acting and updates share."""

    method: Method
    networks: Networks
    auxiliary: Auxiliary
    optimizer: optax.GradientTransformation  # of the actor
    critic_optimizer: optax.GradientTransformation
    alpha_optimizer: optax.GradientTransformation
    auxiliary_optimizer: optax.GradientTransformation
    config: SACConfig
    guidance_mean: str  # as ``CovrConfig.guidance_mean``

    def actor(self, params: dict[str, Params], features: Array, previous_action: Array | None) -> Any:
        """Returns the actor's outputs for torso features f32[B,N]; residual actors read the previous action too."""
        inputs = (previous_action,) if self.method.residual else ()
        return self.networks.actor.apply(params["actor"], features, *inputs)

    def policy(
        self, params: dict[str, Params], observation: Array, previous_action: Array | None, *, explore: bool = False
    ) -> Any:
        """Returns the actor's outputs for observations u8[B,H,W,C], as they are evaluated or as training acts."""
        augmentation = self.method.augmentation
        prepare = augmentation.explore if explore and augmentation.explore is not None else augmentation.center
        features = self.networks.torso.apply(params["torso"], prepare(observation))
        return self.actor(params, features, previous_action)

    def q(self, critic: Params, auxiliary: Params, features: Array, action: Array) -> Array:
        """Returns both critics' values f32[2,B] of torso features f32[B,N] and actions f32[B,A]."""
        return self.networks.critic.apply(critic, features, self.auxiliary.embed_action(auxiliary, action))


def make_parts(
    action_dim: int, learning_rate: float, method: Method, config: SACConfig, guidance_mean: str = "batch"
) -> LearnerParts:
    """Builds networks, auxiliary loss and optimizers; the arguments are those of ``make_learner``."""
    config = config.resolved(learning_rate)
    networks = build_networks(method, action_dim, config)
    auxiliary = (method.auxiliary or no_auxiliary)(networks, method.augmentation, action_dim, config)
    return LearnerParts(
        method=method,
        networks=networks,
        auxiliary=auxiliary,
        optimizer=_adam(learning_rate, config),
        critic_optimizer=_clipped(_adam(learning_rate, config), config.critic_clip_norm),
        alpha_optimizer=optax.adam(config.alpha_learning_rate, b1=config.alpha_beta1),
        auxiliary_optimizer=_auxiliary_optimizer(config),
        config=config,
        guidance_mean=guidance_mean,
    )


def _adam(rate: Any, config: SACConfig) -> optax.GradientTransformation:
    """Returns Adam, or with a weight decay AdamW; ``rate`` is a number or a schedule."""
    return optax.adamw(rate, weight_decay=config.weight_decay) if config.weight_decay else optax.adam(rate)


def _clipped(optimizer: optax.GradientTransformation, norm: float | None) -> optax.GradientTransformation:
    """Returns an optimizer of gradients whose norm is clipped; None leaves it as it is."""
    return optimizer if norm is None else optax.chain(optax.clip_by_global_norm(norm), optimizer)


def _auxiliary_optimizer(config: SACConfig) -> optax.GradientTransformation:
    """Returns Adam over AuxiliaryParams, with what MLR (warm-up, clipping), CURL and SPR (encoder's rate) add to it.

    Their authors update the encoder by two Adams with the same gradient, which is one Adam with the sum of the rates.
    """
    rate, warmup, clip = required(config.auxiliary_learning_rate), config.auxiliary_warmup, config.auxiliary_clip_norm

    def schedule(step: Any) -> Any:  # from 5e-4 of the rate, as in MLR's code
        rising = 5e-4 + (1.0 - 5e-4) * step / warmup
        return rate * jnp.where(step < warmup, rising, jnp.sqrt(warmup / jnp.maximum(step, 1)))

    adam = _adam(schedule if warmup else rate, config)
    if clip is None and config.auxiliary_encoder_scale == 1.0:
        return adam

    def scale_encoder(updates: Any, _: Any) -> Any:
        torso, encoder = jax.tree.map(lambda x: config.auxiliary_encoder_scale * x, (updates.torso, updates.encoder))
        return updates._replace(torso=torso, encoder=encoder)

    clipping = [optax.clip_by_global_norm(clip)] if clip is not None else []
    return optax.chain(*clipping, adam, optax.stateless(scale_encoder))


def init_state(parts: LearnerParts, key: Array, observation: Array, action: Array) -> LearnerState:
    """Initialises parameters, targets and optimizers.

    Args:
      parts: of the learner.
      key: PRNG key, consumed.
      observation: u8[1,H,W,C], gives the shapes only.
      action: f32[1,A], gives the shapes only.
    """
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
    target = {"torso": params["torso"], "critic": params["critic"]}
    objective = parts.method.objective
    if objective.copies_targets:
        target["actor"] = params["actor"]
    if objective.scales_rewards:
        target["reward_scale"] = {"online": jnp.ones(()), "target": jnp.ones(())}
    if ema_params := {name: auxiliary[name] for name in parts.auxiliary.ema_params}:
        target["auxiliary"] = ema_params
        if config.auxiliary_tau != config.encoder_tau:
            target["momentum"] = {"torso": params["torso"], "encoder": params["critic"]["encoder"]}
    return LearnerState(
        params=params,
        target=jax.tree.map(jnp.copy, target),
        critic_opt=parts.critic_optimizer.init(critic_params(parts, params)),
        actor_opt=parts.optimizer.init(params["actor"]),
        auxiliary_opt=parts.auxiliary_optimizer.init(auxiliary_params(params)) if parts.method.auxiliary else {},
        log_alpha=log_alpha,
        alpha_opt=parts.alpha_optimizer.init(log_alpha),
        guidance_weight=jnp.zeros((), jnp.float32),
        exploration_noise=jnp.asarray(config.noise_start, jnp.float32),
        updates=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_a_row=jnp.zeros((), jnp.int32),
    )


def critic_params(parts: LearnerParts, params: dict[str, Params]) -> dict[str, Params]:
    """Returns the parameters that the critic's loss trains: the Q heads alone, or torso and critic (and embedding)."""
    if not parts.method.objective.trains_encoder:
        return {"heads": params["critic"]["heads"]}
    embeds = parts.auxiliary.embed_action is not same_action
    return {name: params[name] for name in ("torso", "critic", *(("auxiliary",) if embeds else ()))}


def with_critic_params(params: dict[str, Params], trained: dict[str, Params]) -> dict[str, Params]:
    """Returns the parameters with those of ``critic_params`` in their places."""
    return params | ({"critic": params["critic"] | trained} if "heads" in trained else trained)


def reward_unit(state: LearnerState) -> Array | float:
    """Returns the reward that counts 1 in the critics' values, f32[]: 1 unless the method scales rewards."""
    return state.target["reward_scale"]["online"] if "reward_scale" in state.target else 1.0


def auxiliary_params(params: dict[str, Params]) -> AuxiliaryParams:
    """Returns the parameters that the auxiliary loss trains."""
    return AuxiliaryParams(params["torso"], params["critic"]["encoder"], params["auxiliary"])
