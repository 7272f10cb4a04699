"""SPR (Schwarzer et al. 2021) for continuous control, as Yu et al. compare with it (2021, 2022): SAC on random crops.

L = sum_{k=1..K} mean |u(q(g(zhat_k))) - u(gbar(zbar_{t+k}))|^2 with u(x) = x / |x|, that is 2 - 2 cos, and K = 5:
zhat_0 = f(s_t) and zhat_k = T(zhat_{k-1}, a_{t+k-1}), f the critic's encoder, g a projection and q a prediction head;
zbar and gbar are those of the target encoder and the projection's moving average. Each image is cropped anew and its
brightness varied. Ours: rows whose episode ends within K steps are left out whole, as ``Future.valid`` is of a row; the
loss reads the critic's batch, its first 128 rows, where the authors draw 128 others; gbar begins as g; one Adam for
encoder and heads, where their code steps the encoder twice; K is the first paper's, where theirs has files with 6.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from covr_jax.agents import augment
from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.methods.rad import placement
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import perceptron, predictor
from covr_jax.config import SACConfig
from covr_jax.types import Array, Batch, Future

STEPS = 5  # K
ROWS = 128  # of a batch that the loss reads, at most
PROJECTION = 100  # hidden units of projection and prediction head
SETTINGS = PublishedHyperparameters(
    sac={"batch_size": 512, "num_filters": 64, "auxiliary_learning_rate": 1e-3}, augment={"kind": "crop"}
)
_STRENGTH, _CLIP = 0.05, 2.0  # of the change of brightness
_SMALLEST = 1e-3  # norm


def beginning(name: str, batch: Batch) -> tuple[Array, Future]:
    """The observations and the future of the batch's first rows."""
    if batch.future is None:
        raise ValueError(f"{name} needs batches with a future")
    action, reward, seen, valid = batch.future
    first = Future(action[:, :ROWS], reward[:, :ROWS], seen[:, :ROWS], valid[:ROWS])
    return batch.observation[:ROWS], first


def changed(augmentation: Augmentation, key: Array, images: Array) -> Array:
    """Placed anew and brighter or darker, u8[B,H,W,C] -> f32[B,H',W',C] from 0 on."""
    place_key, strength_key = jax.random.split(key)
    strength = 1.0 + _STRENGTH * jax.random.normal(strength_key, images.shape[:1]).clip(-_CLIP, _CLIP)
    return augment.intensity(augmentation.random(place_key, images), strength)


def encode(networks: Networks, torso: Params, encoder: Params, images: Array) -> Array:
    """The critic's features f32[B,F]."""
    return networks.features.apply(encoder, networks.torso.apply(torso, images))


def init_heads(key: Array, features: int) -> dict[str, Params]:
    """Projection and prediction head."""
    head, z = perceptron(features, PROJECTION), jnp.zeros((1, features))
    return dict(zip(("projection", "prediction"), (head.init(key, z) for key in jax.random.split(key)), strict=True))


def distance(trained: Params, ema_params: Params, predicted: Array, wanted: Array) -> Array:
    """2 - 2 cos of the heads' outputs, f32[...]; no gradient reaches ``wanted``.

    Args:
      trained: parameters of projection and prediction head.
      ema_params: parameters of the target's projection.
      predicted: f32[...,F], predicted features.
      wanted: f32[...,F], features of what followed.
    """
    head = perceptron(predicted.shape[-1], PROJECTION)
    mine = head.apply(trained["prediction"], head.apply(trained["projection"], predicted))
    theirs = jax.lax.stop_gradient(head.apply(ema_params["projection"], wanted))
    return jnp.sum((_unit(mine) - _unit(theirs)) ** 2, axis=-1)


def _unit(x: Array) -> Array:
    # The square is bounded before its root is taken, which has no gradient at 0.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), _SMALLEST**2))


def self_prediction(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """A latent model that foresees the target encoder's features."""
    del action_dim
    transition = predictor(config.feature_dim)

    def init(key: Array, features: Array, action: Array) -> Params:
        del features
        keys, z = jax.random.split(key), jnp.zeros((1, config.feature_dim))
        return {"transition": transition.init(keys[0], z, action), **init_heads(keys[1], config.feature_dim)}

    def loss(
        trained: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del views
        observation, future = beginning("spr", batch)
        now_key, later_key = jax.random.split(key)
        z = encode(networks, trained.torso, trained.encoder, changed(augmentation, now_key, observation))
        predicted = []
        for action in future.action:
            z = transition.apply(trained.auxiliary["transition"], z, action)
            predicted.append(z)
        flat = future.observation.reshape(-1, *observation.shape[1:])
        later = changed(augmentation, later_key, flat)
        wanted = encode(networks, target["torso"], target["critic"]["encoder"], later)
        error = distance(trained.auxiliary, target["auxiliary"], jnp.stack(predicted), wanted.reshape(STEPS, *z.shape))
        valid = future.valid.astype(z.dtype)
        return jnp.sum(valid * error.sum(0)) / jnp.maximum(valid.sum(), 1.0), {}

    return Auxiliary(init, loss, ema_params=("projection",))


def make(request: MethodSpec) -> Method:
    """SAC that predicts its own features; random crops unless another placement is asked for."""
    return Method(placement(request), auxiliary=self_prediction, horizon=STEPS)
