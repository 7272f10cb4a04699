"""DeepMDP (Gelada et al. 2019) in the pixel form of Zhang et al. 2021: SAC whose features predict what follows.

L = 0.5 mean (T(h, a) - sg f(s'))^2 + mean (R(h, a) - r)^2, with h = f(s) the features of the critic's encoder, moves
that encoder and both heads after each critic update. Ours: the deterministic transition model; one Adam for encoder and
heads, which is the same as the authors' two with equal rates; with n-step returns the heads predict n steps on; 128
transitions per update, where Zhang et al. take 512.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import predictor
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch

SETTINGS = PublishedHyperparameters(env={"image_size": 84}, sac={"auxiliary_learning_rate": 1e-3})


class ExtraLoss(NamedTuple):
    """A further loss, on the torso's features of the observation f32[B,N]."""

    init: Callable[[Array, Array], Params]  # (key, features f32[1,N])
    loss: Callable[[Params, Array, Batch], tuple[Array, Metrics]]  # (parameters, features, batch)


def latent_model(
    networks: Networks,
    augmentation: Augmentation,
    action_dim: int,
    config: SACConfig,
    *,
    beside: ExtraLoss | None = None,
) -> Auxiliary:
    """Transition and reward heads on the critic's features; the loss ``beside`` them is added to theirs."""
    del augmentation, action_dim
    transition, reward = predictor(config.feature_dim), predictor(1)

    def init(key: Array, features: Array, action: Array) -> Params:
        keys = jax.random.split(jax.random.clone(key))
        h = jnp.zeros((1, config.feature_dim))
        params = {"transition": transition.init(keys[0], h, action), "reward": reward.init(keys[1], h, action)}
        return params | ({"beside": beside.init(jax.random.fold_in(key, 2), features)} if beside else {})

    def loss(
        trained: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del target, key

        def encode(images: Array) -> tuple[Array, Array]:
            features = networks.torso.apply(trained.torso, images)
            return features, networks.features.apply(trained.encoder, features)

        features, h = encode(views.observation[0])
        following = jax.lax.stop_gradient(encode(views.next_observation[0])[1])
        predicted = transition.apply(trained.auxiliary["transition"], h, batch.action)
        transition_loss = 0.5 * jnp.mean((predicted - following) ** 2)
        expected = reward.apply(trained.auxiliary["reward"], h, batch.action)[:, 0]
        reward_loss = jnp.mean((expected - batch.reward) ** 2)
        metrics = {"losses/transition": transition_loss, "losses/reward": reward_loss}
        total = transition_loss + reward_loss
        if beside:
            value, more = beside.loss(trained.auxiliary["beside"], features, batch)
            total, metrics = total + value, metrics | more
        return total, metrics

    return Auxiliary(init, loss)


def make(request: MethodSpec) -> Method:
    """SAC with a latent model."""
    request.refuse_augmentation()
    return Method(no_augmentation(), auxiliary=latent_model)
