"""DeepMDP (Gelada et al. 2019) in the pixel form of Zhang et al. 2021: SAC whose features predict what follows.

L = 0.5 mean (T(h, a) - sg f(s'))^2 + mean (R(h, a) - r)^2, with h = f(s) the features of the critic's encoder, moves
that encoder and both heads after each critic update. Ours: the deterministic transition model; one Adam for encoder and
heads, which is the same as the authors' two with equal rates; with n-step returns the heads predict n steps on.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from covr_jax.agents.method import Augmentation, Auxiliary, Method, Metrics, Trained, Views
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.agents.methods.settings import Request, Settings
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import predictor
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch

SETTINGS = Settings(env={"image_size": 84}, sac={"auxiliary_learning_rate": 1e-3})


def latent_model(
    networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig
) -> Auxiliary:
    """Transition and reward heads on the critic's features."""
    del augmentation, action_dim
    transition, reward = predictor(config.feature_dim), predictor(1)

    def init(key: Array, features: Array, action: Array) -> Params:
        del features
        keys = jax.random.split(key)
        h = jnp.zeros((1, config.feature_dim))
        return {"transition": transition.init(keys[0], h, action), "reward": reward.init(keys[1], h, action)}

    def loss(
        trained: Trained, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del target, key

        def encode(images: Array) -> Array:
            return networks.features.apply(trained.encoder, networks.torso.apply(trained.torso, images))

        h = encode(views.observation[0])
        following = jax.lax.stop_gradient(encode(views.next_observation[0]))
        predicted = transition.apply(trained.auxiliary["transition"], h, batch.action)
        transition_loss = 0.5 * jnp.mean((predicted - following) ** 2)
        expected = reward.apply(trained.auxiliary["reward"], h, batch.action)[:, 0]
        reward_loss = jnp.mean((expected - batch.reward) ** 2)
        metrics = {"losses/transition": transition_loss, "losses/reward": reward_loss}
        return transition_loss + reward_loss, metrics

    return Auxiliary(init, loss)


def make(request: Request) -> Method:
    """SAC with a latent model."""
    request.refuse_augmentation()
    return Method(no_augmentation(), auxiliary=latent_model)
