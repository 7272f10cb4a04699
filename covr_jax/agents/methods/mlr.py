"""MLR (Yu et al. 2022): SAC on random crops that reconstructs features of masked images.

L = 1/K sum_{i<K} mean |u(q(g(D(z, a)_i))) - u(gbar(zbar_{t+i}))|^2, that is 2 - 2 cos, over K = 16 observations: of
each ``mask_depth`` in a row the same random half of the patches, a tenth of the side wide, is black; z = f(masked
image), f the critic's encoder; the decoder D is a transformer over states and actions; heads and targets are SPR's, the
latter of unmasked images.
Masks are sampled once for a batch, as in the authors' code. Differences from it: no action follows the last
observation; weights are initialised orthogonal; and those of SPR in rows, gbar and episodes that end.
Letters: B batch, H W image, C channels, K steps, F features, A action.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, PRNGKeyArray

from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views, momentum_encoder
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.methods.rad import rad_augmentation
from covr_jax.agents.methods.spr import cosine_distance, encode, first_rows, init_heads, perturb
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import latent_decoder
from covr_jax.config import SACConfig
from covr_jax.types import Batch

STEPS = 16  # K
PATCH = 0.1  # side of a patch / side of the image
SHARE = 0.5  # masked share of the patches
LAYERS = 2  # blocks of the decoder


def sample_mask(key: PRNGKeyArray, size: int, depth: int) -> Bool[Array, "K {size} {size}"]:
    """Samples which pixels to mask: the same patches in every ``depth`` steps. The key is consumed."""
    side = max(round(PATCH * size), 1)
    cells = -(-size // side)

    def patches(key: Array) -> Array:
        order = jax.random.permutation(key, cells * cells)
        return (order < int(SHARE * cells * cells)).reshape(cells, cells)

    cubes = jax.vmap(patches)(jax.random.split(key, -(-STEPS // depth)))
    return cubes.repeat(depth, axis=0).repeat(side, axis=1).repeat(side, axis=2)[:STEPS, :size, :size]


def reconstruction(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Returns the auxiliary loss: a decoder that reconstructs the features of a masked sequence."""
    del action_dim
    decoder = latent_decoder(LAYERS)

    def init(key: Array, features: Array, action: Array) -> Params:
        del features
        keys, z = jax.random.split(key), jnp.zeros((STEPS, 1, config.feature_dim))
        actions = jnp.broadcast_to(action, (STEPS - 1, *action.shape))
        return {"decoder": decoder.init(keys[0], z, actions), **init_heads(keys[1], config.feature_dim)}

    def loss(
        params: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del views
        observation, future = first_rows("mlr", batch)
        mask_key, online_key, target_key = jax.random.split(key, 3)
        sequence = jnp.concatenate([observation[None], future.observation])  # u8[K,B,H,W,C]
        mask = sample_mask(mask_key, sequence.shape[2], config.mask_depth)[:, None, :, :, None]
        masked = jnp.where(mask, jnp.uint8(0), sequence)

        def features(torso: Params, encoder: Params, key: Array, images: Array) -> Array:
            flat = perturb(augmentation, key, images.reshape(-1, *images.shape[2:]))
            return encode(networks, torso, encoder, flat).reshape(*images.shape[:2], -1)

        z = features(params.torso, params.encoder, online_key, masked)
        predicted = decoder.apply(params.auxiliary["decoder"], z, future.action)
        target_z = features(*momentum_encoder(target), target_key, sequence)
        error = cosine_distance(params.auxiliary, target["auxiliary"], predicted, target_z).mean(0)
        valid = future.valid.astype(error.dtype)
        return jnp.sum(valid * error) / jnp.maximum(valid.sum(), 1.0), {}

    return Auxiliary(init, loss, ema_params=("projection",))


def make(spec: MethodSpec) -> Method:
    """Returns SAC that reconstructs masked sequences; random crops unless the spec says otherwise."""
    return Method(rad_augmentation(spec), auxiliary=reconstruction, horizon=STEPS - 1)
