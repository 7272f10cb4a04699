"""The steps of an update: critic, auxiliary loss, actor, temperature and targets, each a pure function of the state.

Letters: B batch, A action, V views of an image.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int32, Shaped

from covr_jax.agents import losses
from covr_jax.agents.method import AuxiliaryParams, Metrics, Views
from covr_jax.agents.networks import Params
from covr_jax.agents.state import (
    LearnerParts,
    LearnerState,
    auxiliary_params,
    critic_params,
    reward_unit,
    with_critic_params,
)
from covr_jax.config import SACConfig, required
from covr_jax.covr.guidance import effective_share, guidance_loss
from covr_jax.types import Batch, Prior


class ActorInputs(NamedTuple):
    """What the actor's half of an update takes from the critic's half.

    Attributes:
      observation: u8[B,H,W,C], the first view.
      prior: of the batch.
      previous_action: of the batch.
      key: PRNG key, consumed.
      whole: bool[], whether the critic's half made all its steps.
      skipped_in_a_row: i32[], before this update.
    """

    observation: Any
    prior: Prior
    previous_action: Array | None
    key: Array
    whole: Bool[Array, ""]
    skipped_in_a_row: Int32[Array, ""]


def concat_views(views: tuple[Shaped[Array | np.ndarray, "B ..."], ...]) -> Any:
    """Returns the views one after the other, [V*B,...], for one pass through a network."""
    return views[0] if len(views) == 1 else jnp.concatenate(views)


def repeat_for_views(x: Shaped[Array | np.ndarray, "B ..."], views: int) -> Any:
    """Returns the same rows once for every view, [V*B,...]."""
    return x if views == 1 else jnp.tile(x, (views, *[1] * (x.ndim - 1)))


def critic_targets(
    parts: LearnerParts, state: LearnerState, views: Views, batch: Batch, key: Array
) -> Float[Array, " B"]:
    """Returns y, the mean over the views of the next observation (DrQ's M views; one elsewhere)."""
    params, target, count = state.params, state.target, len(views.next_observation)
    images = concat_views(views.next_observation)
    acting = target if parts.method.objective.copies_targets else params
    features = parts.networks.torso.apply(acting["torso"], images)
    outputs = parts.actor(acting, features, repeat_for_views(batch.action, count))
    next_action, next_log_prob = parts.method.policy.sample(key, outputs, state.exploration_noise)
    target_features = features if acting is target else parts.networks.torso.apply(target["torso"], images)
    next_q = parts.q(target["critic"], params["auxiliary"], target_features, next_action)
    reward, discount = repeat_for_views(batch.reward, count), repeat_for_views(batch.discount, count)
    if scales := target.get("reward_scale"):
        next_q, reward = next_q * scales["target"] / scales["online"], reward / scales["online"]
    y = losses.soft_target(reward, discount, next_q, next_log_prob, jnp.exp(state.log_alpha), parts.config.discount)
    return y if count == 1 else y.reshape(count, -1).mean(0)


def apply_gradients(
    optimizer: optax.GradientTransformation, grads: Any, opt_state: Any, params: Any
) -> tuple[Any, Any, Bool[Array, ""]]:
    """Makes one step of an optimizer, or none where a gradient is not finite: it would spoil all later ones.

    Returns:
      The parameters, the optimizer's state, and whether they moved.
    """
    finite = jnp.array([jnp.isfinite(grad).all() for grad in jax.tree.leaves(grads)]).all()
    updates, moved_state = optimizer.update(grads, opt_state, params)
    moved = optax.apply_updates(params, updates)
    return *jax.tree.map(partial(jnp.where, finite), (moved, moved_state), (params, opt_state)), finite


def update_critic(
    parts: LearnerParts, state: LearnerState, views: Views, batch: Batch, key: Array
) -> tuple[LearnerState, Metrics]:
    """Minimises L_Q over critic and torso, weighted over the views. The key is consumed."""
    params, weights, objective = state.params, parts.method.view_weights, parts.method.objective
    y = critic_targets(parts, state, views, batch, key)

    def loss(trained: Any) -> tuple[Array, Array]:
        whole = with_critic_params(params, trained)
        features = parts.networks.torso.apply(whole["torso"], concat_views(views.observation))
        q = parts.q(whole["critic"], whole["auxiliary"], features, repeat_for_views(batch.action, len(weights)))
        per_view = jnp.split(q, len(weights), axis=1) if len(weights) > 1 else [q]
        value = sum(w * objective.critic_loss(part, y, batch.weight) for w, part in zip(weights, per_view, strict=True))
        return jnp.asarray(value), per_view[0]

    trained = critic_params(parts, params)
    (value, q), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    moved, critic_opt, finite = apply_gradients(parts.critic_optimizer, grads, state.critic_opt, trained)
    state = state.replace(params=with_critic_params(params, moved), critic_opt=critic_opt)
    td_error = jnp.abs(q - y[None]).mean(0)
    q_mean = q.mean() * reward_unit(state)
    return state, {"losses/critic": value, "sac/q_mean": q_mean, "td_error": td_error, "finite": finite}


def update_auxiliary(
    parts: LearnerParts, state: LearnerState, views: Views, batch: Batch, key: Array
) -> tuple[LearnerState, Metrics]:
    """Minimises the method's auxiliary loss. The key is consumed."""

    def loss(trained: AuxiliaryParams) -> tuple[Array, Metrics]:
        return parts.auxiliary.loss(trained, state.target, views, batch, key)

    trained = auxiliary_params(state.params)
    (value, metrics), grads = jax.value_and_grad(loss, has_aux=True)(trained)
    moved, auxiliary_opt, finite = apply_gradients(parts.auxiliary_optimizer, grads, state.auxiliary_opt, trained)
    critic = state.params["critic"] | {"encoder": moved.encoder}
    params = state.params | {"torso": moved.torso, "critic": critic, "auxiliary": moved.auxiliary}
    metrics |= {"losses/auxiliary": value, "finite": finite}
    return state.replace(params=params, auxiliary_opt=auxiliary_opt), metrics


def update_actor(parts: LearnerParts, state: LearnerState, inputs: ActorInputs) -> tuple[LearnerState, Metrics]:
    """Minimises L_pi + lambda ||a_v - a_r||^2 (COVR Eq. 4), then updates the temperature."""
    params, policy, objective = state.params, parts.method.policy, parts.method.objective
    sample = policy.improve or policy.sample
    features = parts.networks.torso.apply(params["torso"], inputs.observation)
    alpha, prior = jnp.exp(state.log_alpha), inputs.prior

    def loss(actor: Params) -> tuple[Array, tuple[Array, Array, Array, Array]]:
        outputs = parts.actor({"actor": actor}, features, inputs.previous_action)
        action, log_prob = sample(inputs.key, outputs, state.exploration_noise)
        q = parts.q(params["critic"], params["auxiliary"], features, action)
        valid = prior.valid
        if parts.config.prior_gate == "advantage":
            prior_q = parts.q(params["critic"], params["auxiliary"], features, prior.action)
            valid = valid & (prior_q.min(0) > q.min(0))
        guidance = guidance_loss(action, prior.action, valid, parts.guidance_mean)
        base = objective.actor_loss(q, log_prob, alpha, outputs)
        share = effective_share(valid, parts.guidance_mean)
        return base + state.guidance_weight * guidance, (base, log_prob, guidance, share)

    (_, (base, log_prob, guidance, share)), grads = jax.value_and_grad(loss, has_aux=True)(params["actor"])
    actor, actor_opt, finite = apply_gradients(parts.optimizer, grads, state.actor_opt, params["actor"])
    state = state.replace(params=params | {"actor": actor}, actor_opt=actor_opt)
    metrics = {
        "losses/actor": base,
        "losses/guidance": guidance,
        "sac/effective_guidance_weight": state.guidance_weight * share,
        "finite": finite,
    }
    if not policy.entropy_regularised:
        return state, metrics | {"sac/exploration_noise": state.exploration_noise}
    state, value = update_temperature(parts, state, log_prob, prior.action.shape[-1])
    metrics |= {"losses/alpha": value, "sac/alpha": alpha, "sac/entropy": -log_prob.mean()}
    return state, metrics


def update_temperature(
    parts: LearnerParts, state: LearnerState, log_prob: Float[Array, " B"], action_dim: int
) -> tuple[LearnerState, Float[Array, ""]]:
    """Minimises L_alpha with a target entropy of -A nats; returns the new state and the loss before the step."""
    value, grad = jax.value_and_grad(losses.alpha_loss)(state.log_alpha, log_prob, -float(action_dim))
    log_alpha, alpha_opt, _ = apply_gradients(parts.alpha_optimizer, grad, state.alpha_opt, state.log_alpha)
    return state.replace(log_alpha=log_alpha, alpha_opt=alpha_opt), value


def update_target(config: SACConfig, state: LearnerState) -> LearnerState:
    """theta_bar <- (1 - tau) theta_bar + tau theta; tau differs for convolutions, encoder and Q heads (SAC-AE)."""

    def ema(target: Params, online: Params, tau: float) -> Params:
        return jax.tree.map(lambda t, o: (1.0 - tau) * t + tau * o, target, online)

    online, target = state.params, state.target
    encoder = ema(target["critic"]["encoder"], online["critic"]["encoder"], config.encoder_tau)
    heads = ema(target["critic"]["heads"], online["critic"]["heads"], config.critic_tau)
    torso = ema(target["torso"], online["torso"], required(config.torso_tau))
    updated = {"torso": torso, "critic": {"encoder": encoder, "heads": heads}}
    if "auxiliary" in target:
        ema_params = {name: online["auxiliary"][name] for name in target["auxiliary"]}
        tau = required(config.auxiliary_tau)
        updated["auxiliary"] = ema(target["auxiliary"], ema_params, tau)
        if "momentum" in target:
            followed = {"torso": online["torso"], "encoder": online["critic"]["encoder"]}
            updated["momentum"] = ema(target["momentum"], followed, tau)
    return state.replace(target=updated)


def copy_targets(parts: LearnerParts, state: LearnerState, batch: Batch) -> LearnerState:
    """Copies all parameters into the targets in every ``target_period``-th update, beginning with the first (MR.Q).

    The unit of the critics' values goes with them, and becomes the batch's ``reward_scale``, or 1 while there were no
    rewards.

    Raises:
      ValueError: rewards are scaled, and the batch has no ``reward_scale``.
    """
    due = state.updates % parts.config.target_period == 0
    copied = {name: state.params[name] for name in ("torso", "critic", "actor")}
    if parts.method.objective.scales_rewards:
        if batch.reward_scale is None:
            raise ValueError("this method needs batches with a reward_scale, the mean of |reward| over the replay")
        unit = jnp.where(batch.reward_scale > 0, batch.reward_scale, 1.0)
        copied["reward_scale"] = {"online": unit, "target": state.target["reward_scale"]["online"]}
    return state.replace(target=jax.tree.map(partial(jnp.where, due), copied, state.target))


def critic_half(
    parts: LearnerParts, state: LearnerState, batch: Batch, key: Array
) -> tuple[LearnerState, Metrics, ActorInputs]:
    """One update of critic and auxiliary loss, which is counted."""
    # A separate key for the auxiliary loss, so that methods with and without one draw the same numbers elsewhere.
    auxiliary_key = jax.random.fold_in(jax.random.clone(key), 3)
    augment_key, critic_key, actor_key = jax.random.split(key, 3)
    views = parts.method.augmentation.augment(augment_key, batch.observation, batch.next_observation)
    before = state.skipped_in_a_row
    if parts.method.objective.copies_targets:
        state = copy_targets(parts, state, batch)
    state, metrics = update_critic(parts, state, views, batch, critic_key)
    whole = metrics.pop("finite")
    if parts.method.auxiliary is not None:
        state, more = update_auxiliary(parts, state, views, batch, auxiliary_key)
        whole &= more.pop("finite")
        metrics |= more
    row = jnp.where(whole, 0, before + 1)
    state = state.replace(updates=state.updates + 1, skipped=state.skipped + ~whole, skipped_in_a_row=row)
    inputs = ActorInputs(views.observation[0], batch.prior, batch.previous_action, actor_key, whole, before)
    return state, metrics, inputs


def actor_half(parts: LearnerParts, state: LearnerState, inputs: ActorInputs) -> tuple[LearnerState, Metrics]:
    """The same update's step of actor, temperature and targets."""
    state, metrics = update_actor(parts, state, inputs)
    finite = metrics.pop("finite")
    if not parts.method.objective.copies_targets:
        state = update_target(parts.config, state)
    row = jnp.where(inputs.whole & finite, 0, inputs.skipped_in_a_row + 1)
    return state.replace(skipped=state.skipped + (inputs.whole & ~finite), skipped_in_a_row=row), metrics
