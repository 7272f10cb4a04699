"""MLR (Yu et al. 2022): SAC on random crops whose features tell what half-hidden pictures show.

L = 1/K sum_{i<K} mean |u(q(g(D(z, a)_i))) - u(gbar(zbar_{t+i}))|^2, that is 2 - 2 cos, over K = 16 observations: of
each 8 in a row the same random half of the patches, a tenth of the side wide, is black; z = f(what is left), f the
critic's encoder; the decoder D is a transformer over states and actions; heads and targets are SPR's, the latter of
whole pictures.
Masks are drawn once for a batch, as in the authors' code. Ours: cubes are 8 steps deep in every task, theirs 4 in some;
no action follows the last observation; weights begin orthogonal; no warm-up of the learning rate and no bound on the
gradient; what SPR's docstring says of rows, of gbar and of episodes that end.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.methods.rad import placement
from covr_jax.agents.methods.spr import beginning, changed, distance, encode, init_heads
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import latent_decoder
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch

STEPS = 16  # K
DEPTH = 8  # steps of a cube
PATCH = 0.1  # of the image's side
SHARE = 0.5  # of the patches that are hidden
LAYERS = 2  # of the decoder
SETTINGS = PublishedHyperparameters(
    sac={"batch_size": 512, "num_filters": 64, "auxiliary_learning_rate": 5e-4}, augment={"kind": "crop"}
)


def sample_mask(key: Array, size: int) -> Array:
    """What is masked, bool[K,size,size]: the same patches in every ``DEPTH`` steps."""
    side = max(round(PATCH * size), 1)
    cells = -(-size // side)

    def patches(key: Array) -> Array:
        order = jax.random.permutation(key, cells * cells)
        return (order < int(SHARE * cells * cells)).reshape(cells, cells)

    cubes = jax.vmap(patches)(jax.random.split(key, STEPS // DEPTH))
    return cubes.repeat(DEPTH, axis=0).repeat(side, axis=1).repeat(side, axis=2)[:, :size, :size]


def reconstruction(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """A decoder that completes the features of a sequence."""
    del action_dim
    decoder = latent_decoder(LAYERS)

    def init(key: Array, features: Array, action: Array) -> Params:
        del features
        keys, z = jax.random.split(key), jnp.zeros((STEPS, 1, config.feature_dim))
        actions = jnp.broadcast_to(action, (STEPS - 1, *action.shape))
        return {"decoder": decoder.init(keys[0], z, actions), **init_heads(keys[1], config.feature_dim)}

    def loss(
        trained: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del views
        observation, future = beginning("mlr", batch)
        mask_key, mine_key, whole_key = jax.random.split(key, 3)
        sequence = jnp.concatenate([observation[None], future.observation])  # u8[K,B,H,W,C]
        mask = sample_mask(mask_key, sequence.shape[2])[:, None, :, :, None]
        left = jnp.where(mask, jnp.uint8(0), sequence)

        def features(torso: Params, encoder: Params, key: Array, images: Array) -> Array:
            flat = changed(augmentation, key, images.reshape(-1, *images.shape[2:]))
            return encode(networks, torso, encoder, flat).reshape(*images.shape[:2], -1)

        z = features(trained.torso, trained.encoder, mine_key, left)
        predicted = decoder.apply(trained.auxiliary["decoder"], z, future.action)
        wanted = features(target["torso"], target["critic"]["encoder"], whole_key, sequence)
        error = distance(trained.auxiliary, target["auxiliary"], predicted, wanted).mean(0)
        valid = future.valid.astype(error.dtype)
        return jnp.sum(valid * error) / jnp.maximum(valid.sum(), 1.0), {}

    return Auxiliary(init, loss, ema_params=("projection",))


def make(request: MethodSpec) -> Method:
    """SAC that completes masked sequences; random crops unless another placement is asked for."""
    return Method(placement(request), auxiliary=reconstruction, horizon=STEPS - 1)
