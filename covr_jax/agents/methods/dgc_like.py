"""DGC-like: a reading of DGC (Xu et al., CVPR 2025), whose full text and code are not public. Not a reproduction.

DGC distils a referring-segmentation VLM into the encoder. It adds L = L_f + L_k + L_trans + L_rwd to SAC's losses:
L_f fits the feature map to the VLM's map of a text that another VLM writes, L_k fits kernels to the text's. Here

  L = mean over cells of (w . phi(o) + b - m)^2, over rows with a map, + DeepMDP's transition and reward losses,

with phi the torso's last feature map, w, b a trained 1x1 convolution, both maps averaged to G x G cells and m the
cosine similarity of CLIP's patches and of texts that are fixed per task (``vlm.map_engine``). Choices of ours: all
weights are 1; no L_k, because kernels and text features differ in size and a projection between them could fit the loss
alone; m is known for every ``vlm.every``-th frame; no augmentation, so that cells keep their positions.
Letters: B batch, N torso features, C channels, G cells of a map's side.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from covr_jax.agents.method import Augmentation, Auxiliary, Method, Metrics
from covr_jax.agents.methods.deepmdp import ExtraLoss, latent_model
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import pointwise
from covr_jax.config import SACConfig
from covr_jax.types import Batch

SIDE = 7  # G: two of the fourteen patches of CLIP's ViT-B/16 per cell


def pooling_matrix(side: int, cells: int) -> Float[np.ndarray, "{cells} {side}"]:
    """Returns rows that average the pixels from floor(g side / cells) to ceil((g + 1) side / cells), exclusive."""
    matrix = np.zeros((cells, side), np.float32)
    for g in range(cells):
        start, end = g * side // cells, -(-(g + 1) * side // cells)
        matrix[g, start:end] = 1.0 / (end - start)
    return matrix


def map_loss(
    predicted: Float[Array, "B cells"],
    value: Float[Array | np.ndarray, "B cells"],
    valid: Bool[Array | np.ndarray, " B"],
) -> Float[Array, ""]:
    """Returns the squared error, averaged over cells and over the valid rows; 0 if no row is valid.

    Args:
      predicted: maps of G*G cells.
      value: maps to predict; read in valid rows only.
      valid: whether a row has a map.
    """
    error = jnp.where(valid[:, None], predicted - value, 0.0)
    return jnp.sum(error**2) / (jnp.maximum(valid.sum(), 1) * value.shape[1])


def map_extra_loss(channels: int) -> ExtraLoss:
    """Returns L_f on torso features f32[B,N], which are square maps with ``channels`` channels."""
    conv = pointwise(1)

    def to_map(features: Array) -> Array:
        side = math.isqrt(features.shape[1] // channels)
        return features.reshape(-1, side, side, channels)

    def loss(params: Params, features: Array, batch: Batch) -> tuple[Array, Metrics]:
        if batch.maps is None:
            raise ValueError(f"dgc_like needs batches with maps of {SIDE}x{SIDE} cells")
        image = conv.apply(params, to_map(features))[..., 0]
        pooling = pooling_matrix(image.shape[1], SIDE)
        predicted = jnp.einsum("gh,bhw,kw->bgk", pooling, image, pooling, precision="highest")
        value = map_loss(predicted.reshape(-1, SIDE * SIDE), batch.maps.value, batch.maps.valid)
        return value, {"losses/map": value}

    return ExtraLoss(lambda key, features: conv.init(key, to_map(features)), loss)


def distillation(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Returns the auxiliary loss: DeepMDP's losses and L_f."""
    return latent_model(networks, augmentation, action_dim, config, extra_loss=map_extra_loss(config.filters[-1]))


def make(spec: MethodSpec) -> Method:
    """Returns DeepMDP whose feature map is fitted to the VLM's maps."""
    spec.refuse_augmentation()
    return Method(no_augmentation(), auxiliary=distillation, map_side=SIDE)
