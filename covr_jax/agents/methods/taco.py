"""TACO (Zheng et al. 2023): DrQ-v2 with latent actions, trained with a temporal contrastive loss.

L = InfoNCE(G(z_t, u_{t:t+K}), z_{t+K}) + InfoNCE(z_t, z_t of another shift) + mean (R(z_t, u_{t:t+K}) - sum r)^2 with
unit weights, u = encoded actions, z = projected features; the critic reads u(a) in place of a.
The critic's loss trains the action encoder as well. Differences from the authors' code: pairs whose episode ends within
K steps are left out of the first and third loss; rewards are summed without a discount; this loss comes right after the
critic's instead of last; hyperparameters of walker and initial convolutions are those of ``drqv2``.
Letters: B batch, H W image, C channels, A action, K steps, N torso features, F features, U latent action.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array

from covr_jax.agents import policies
from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views
from covr_jax.agents.methods.curl import info_nce
from covr_jax.agents.methods.drq import random_shifts
from covr_jax.agents.methods.drqv2 import deterministic_networks
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import action_encoder, perceptron, projection
from covr_jax.config import SACConfig
from covr_jax.types import Batch

STEPS = 3  # K


def latent_size(action_dim: int) -> int:
    """Returns U, the size of one encoded action."""
    return int(1.25 * action_dim) + 1


def temporal_contrast(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Returns TACO's auxiliary loss; the critic reads encoded actions."""
    size, features = latent_size(action_dim), config.feature_dim
    encoder, sequence, state = action_encoder(size), projection(STEPS * size), projection(features)
    after, reward = perceptron(features, config.hidden_dim), perceptron(1, config.hidden_dim)

    def init(key: Array, torso: Array, action: Array) -> Params:
        keys = jax.random.split(key, 6)
        z, u = jnp.zeros((1, features)), jnp.zeros((1, STEPS * size))
        return {
            "action": encoder.init(keys[0], action),
            "sequence": sequence.init(keys[1], u),
            "state": state.init(keys[2], torso),
            "after": after.init(keys[3], z, u),
            "reward": reward.init(keys[4], z, u),
            "weight": jax.random.uniform(keys[5], (features, features)),
        }

    def loss(
        params: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del target
        if batch.future is None:
            raise ValueError("taco needs batches with a future of 3 steps")
        heads, future = params.auxiliary, batch.future
        keys = jax.random.split(key)

        def project(images: Array) -> Array:
            return state.apply(heads["state"], networks.torso.apply(params.torso, images))

        z = project(views.observation[0])
        later = jax.lax.stop_gradient(project(augmentation.random(keys[0], future.observation[STEPS - 1])))
        other = jax.lax.stop_gradient(project(augmentation.random(keys[1], batch.observation)))
        latent = encoder.apply(heads["action"], future.action).transpose(1, 0, 2).reshape(z.shape[0], -1)
        u = sequence.apply(heads["sequence"], latent)
        valid = future.valid.astype(z.dtype)
        share = valid / jnp.maximum(valid.sum(), 1.0)
        temporal = jnp.sum(share * info_nce(after.apply(heads["after"], z, u), later, heads["weight"]))
        instance = info_nce(z, other, heads["weight"]).mean()
        error = reward.apply(heads["reward"], z, u)[:, 0] - future.reward.sum(0)
        reward_loss = jnp.sum(share * error**2)
        metrics = {"losses/temporal": temporal, "losses/instance": instance, "losses/reward": reward_loss}
        return temporal + instance + reward_loss, metrics

    def embed(params: Params, action: Array) -> Array:
        return encoder.apply(params["action"], action)

    return Auxiliary(init, loss, embed)


def make(spec: MethodSpec) -> Method:
    """Returns DrQ-v2 with temporal action-driven contrastive learning."""
    spec.refuse_other_augmentation()
    return Method(
        random_shifts(spec.image_size),
        networks=deterministic_networks,
        policy=policies.noisy_deterministic,
        auxiliary=temporal_contrast,
        horizon=STEPS,
    )
