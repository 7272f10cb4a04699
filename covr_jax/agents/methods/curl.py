"""CURL (Laskin, Srinivas and Abbeel 2020): SAC on random crops whose features tell each image from the others.

L = mean_b -log softmax_b'(z_b^T W zbar_b')[b], with z the critic's features of one crop and zbar the target encoder's
of another, after each critic update. Ours: one Adam moves encoder and W, where the authors' code steps the encoder
twice; the step comes right after the critic's instead of after the targets'.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.methods.rad import placement
from covr_jax.agents.networks import Networks, Params
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch

SETTINGS = PublishedHyperparameters(sac={"batch_size": 512, "auxiliary_learning_rate": 1e-3}, augment={"kind": "crop"})


def info_nce(anchor: Array, positive: Array, weight: Array) -> Array:
    """-log softmax over the batch of the bilinear logits z W z'^T, at the pairs that belong together, f32[B].

    Args:
      anchor: f32[B,F], features of one view.
      positive: f32[B,F], features of the other view.
      weight: f32[F,F], W.
    """
    logits = anchor @ (weight @ positive.T)
    return -jnp.diagonal(jax.nn.log_softmax(logits, axis=1))


def contrast(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Instance discrimination between two random views."""
    del action_dim

    def init(key: Array, features: Array, action: Array) -> Params:
        del features, action
        return {"weight": jax.random.uniform(key, (config.feature_dim, config.feature_dim))}

    def loss(
        trained: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        anchor = networks.features.apply(trained.encoder, networks.torso.apply(trained.torso, views.observation[0]))
        other = networks.torso.apply(target["torso"], augmentation.random(key, batch.observation))
        positive = networks.features.apply(target["critic"]["encoder"], other)
        return info_nce(anchor, jax.lax.stop_gradient(positive), trained.auxiliary["weight"]).mean(), {}

    return Auxiliary(init, loss)


def make(request: MethodSpec) -> Method:
    """SAC on RAD's images with a contrastive loss; random crops unless another placement is asked for."""
    return Method(placement(request), auxiliary=contrast)
