"""CURL (Laskin, Srinivas and Abbeel 2020): SAC on random crops with a contrastive loss on the critic's features.

L = mean_b -log softmax_b'(z_b^T W zbar_b')[b], with z the critic's features of one crop and zbar the target encoder's
of another, after each critic update. Difference from the authors' code: the step comes right after the critic's instead
of after the targets'.
Letters: B batch, F features, A action.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.methods.rad import rad_augmentation
from covr_jax.agents.networks import Networks, Params
from covr_jax.config import SACConfig
from covr_jax.types import Batch


def info_nce(
    anchor: Float[Array, "B F"], positive: Float[Array, "B F"], weight: Float[Array, "F F"]
) -> Float[Array, " B"]:
    """Returns -log softmax over the batch of the logits z W z'^T, at the positive pairs.

    Args:
      anchor: z, features of one view.
      positive: z', features of the other view; row b belongs to anchor b, the other rows are its negatives.
      weight: W.
    """
    logits = anchor @ (weight @ positive.T)
    return -jnp.diagonal(jax.nn.log_softmax(logits, axis=1))


def contrastive(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Returns the auxiliary loss: instance discrimination between two random views."""
    del action_dim

    def init(key: Array, features: Array, action: Array) -> Params:
        del features, action
        return {"weight": jax.random.uniform(key, (config.feature_dim, config.feature_dim))}

    def loss(
        params: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        anchor = networks.features.apply(params.encoder, networks.torso.apply(params.torso, views.observation[0]))
        other = networks.torso.apply(target["torso"], augmentation.random(key, batch.observation))
        positive = networks.features.apply(target["critic"]["encoder"], other)
        return info_nce(anchor, jax.lax.stop_gradient(positive), params.auxiliary["weight"]).mean(), {}

    return Auxiliary(init, loss)


def make(spec: MethodSpec) -> Method:
    """Returns SAC on RAD's images with a contrastive loss; random crops unless the spec says otherwise."""
    return Method(rad_augmentation(spec), auxiliary=contrastive)
