"""DeepMDP (Gelada et al. 2019) in the pixel form of Zhang et al. 2021: SAC with a latent model.

L = 0.5 mean (T(h, a) - sg f(s'))^2 + mean (R(h, a) - r)^2, with h = f(s) the features of the critic's encoder, trains
that encoder and both heads after each critic update. Differences from Zhang et al.: the transition model is
deterministic; one Adam for encoder and heads, which is the same as their two with equal rates; with n-step returns the
heads predict n steps ahead; 128 transitions per update, where they take 512.
Letters: B batch, H W image, C channels, A action, N torso features, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import predictor
from covr_jax.config import SACConfig
from covr_jax.types import Batch


class ExtraLoss(NamedTuple):
    """A loss on the torso's features of the observation, added to those of the latent model."""

    init: Callable[[Array, Array], Params]  # (key, features f32[1,N])
    loss: Callable[[Params, Array, Batch], tuple[Array, Metrics]]  # (params, features f32[B,N], batch)


def latent_model(
    networks: Networks,
    augmentation: Augmentation,
    action_dim: int,
    config: SACConfig,
    *,
    extra_loss: ExtraLoss | None = None,
) -> Auxiliary:
    """Returns the auxiliary loss: transition and reward heads on the critic's features.

    Args:
      networks: of the agent.
      augmentation: not used.
      action_dim: not used; heads take the size of the example action.
      config: sizes.
      extra_loss: a loss to add to those of both heads.
    """
    del augmentation, action_dim
    transition, reward = predictor(config.feature_dim), predictor(1)

    def init(key: Array, features: Array, action: Array) -> Params:
        keys = jax.random.split(jax.random.clone(key))
        h = jnp.zeros((1, config.feature_dim))
        params = {"transition": transition.init(keys[0], h, action), "reward": reward.init(keys[1], h, action)}
        return params | ({"beside": extra_loss.init(jax.random.fold_in(key, 2), features)} if extra_loss else {})

    def loss(
        params: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del target, key

        def encode(images: Array) -> tuple[Array, Array]:
            features = networks.torso.apply(params.torso, images)
            return features, networks.features.apply(params.encoder, features)

        features, h = encode(views.observation[0])
        next_h = jax.lax.stop_gradient(encode(views.next_observation[0])[1])
        predicted_h = transition.apply(params.auxiliary["transition"], h, batch.action)
        transition_loss = 0.5 * jnp.mean((predicted_h - next_h) ** 2)
        predicted_reward = reward.apply(params.auxiliary["reward"], h, batch.action)[:, 0]
        reward_loss = jnp.mean((predicted_reward - batch.reward) ** 2)
        metrics = {"losses/transition": transition_loss, "losses/reward": reward_loss}
        total = transition_loss + reward_loss
        if extra_loss:
            value, more = extra_loss.loss(params.auxiliary["beside"], features, batch)
            total, metrics = total + value, metrics | more
        return total, metrics

    return Auxiliary(init, loss)


def make(spec: MethodSpec) -> Method:
    """Returns SAC with a latent model."""
    spec.refuse_augmentation()
    return Method(no_augmentation(), auxiliary=latent_model)
