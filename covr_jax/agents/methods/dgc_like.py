"""DGC-like: a reading of DGC (Xu et al., CVPR 2025), whose full text and code are not public. Not a reproduction.

DGC distils a referring-segmentation VLM into the encoder: L = L_f + L_k + L_trans + L_rwd beside SAC's losses, with the
feature map drawn to the VLM's map of a text that another VLM writes, and kernels to the text's. Here

  L = mean over cells of (w . phi(o) + b - m)^2, over rows with a map, + DeepMDP's transition and reward losses,

with phi the torso's last feature map, w, b a 1x1 convolution that is learnt with it, both maps averaged to G x G
cells and m the cosine similarity of CLIP's patches and of texts that are fixed per task (``vlm.maps``). Ours: all
weights 1; no L_k, as kernels and text features have no size in common and a projection between them would be free to
take all of the loss; m is known of every ``vlm.every``-th frame; no augmentation, so that cells stay where they are.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from covr_jax.agents.method import Augmentation, Auxiliary, Method, Metrics
from covr_jax.agents.methods import deepmdp
from covr_jax.agents.methods.deepmdp import ExtraLoss, latent_model
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import pointwise
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch

SIDE = 7  # G: two of the fourteen patches of CLIP's ViT-B/16 per cell
SETTINGS = PublishedHyperparameters(
    env=deepmdp.SETTINGS.env,
    sac=deepmdp.SETTINGS.sac,
    vlm={"name": "openai/clip-vit-base-patch16", "hold": False, "return_episodes": 0},
)


def averaging(side: int, cells: int) -> np.ndarray:
    """f32[cells,side]: rows that average the pixels from floor(g side / cells) up to ceil((g + 1) side / cells)."""
    matrix = np.zeros((cells, side), np.float32)
    for g in range(cells):
        start, end = g * side // cells, -(-(g + 1) * side // cells)
        matrix[g, start:end] = 1.0 / (end - start)
    return matrix


def map_loss(predicted: Array, value: Array, valid: Array) -> Array:
    """Squared error f32[] of maps f32[B,G*G], mean over cells and over the valid (bool[B]) rows; 0 without any."""
    error = jnp.where(valid[:, None], predicted - value, 0.0)
    return jnp.sum(error**2) / (jnp.maximum(valid.sum(), 1) * value.shape[1])


def on_map(channels: int) -> ExtraLoss:
    """L_f on the torso's features f32[B,N] of square maps with so many channels."""
    mix = pointwise(1)

    def cells_of(features: Array) -> Array:
        side = math.isqrt(features.shape[1] // channels)
        return features.reshape(-1, side, side, channels)

    def loss(params: Params, features: Array, batch: Batch) -> tuple[Array, Metrics]:
        if batch.maps is None:
            raise ValueError(f"dgc_like needs batches with maps of {SIDE}x{SIDE} cells")
        seen = mix.apply(params, cells_of(features))[..., 0]
        average = averaging(seen.shape[1], SIDE)
        predicted = jnp.einsum("gh,bhw,kw->bgk", average, seen, average, precision="highest")
        value = map_loss(predicted.reshape(-1, SIDE * SIDE), batch.maps.value, batch.maps.valid)
        return value, {"losses/map": value}

    return ExtraLoss(lambda key, features: mix.init(key, cells_of(features)), loss)


def distilled(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """DeepMDP's losses and L_f."""
    return latent_model(networks, augmentation, action_dim, config, beside=on_map(config.num_filters))


def make(request: MethodSpec) -> Method:
    """DeepMDP with features that show where the VLM sees what the task is about."""
    request.refuse_augmentation()
    return Method(no_augmentation(), auxiliary=distilled, map_side=SIDE)
