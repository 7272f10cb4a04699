"""SPR (Schwarzer et al. 2021) for continuous control, as Yu et al. compare with it (2021, 2022): SAC on random crops.

L = sum_{k=1..K} mean |u(q(g(zhat_k))) - u(gbar(zbar_{t+k}))|^2 with u(x) = x / |x|, that is 2 - 2 cos, and K = 5:
zhat_0 = f(s_t) and zhat_k = T(zhat_{k-1}, a_{t+k-1}), f the critic's encoder, g a projection and q a prediction head;
zbar and gbar are those of the target encoder and the projection's moving average. Each image gets a new crop and a
random brightness. Differences from their code: rows whose episode ends within K steps are left out whole, because
``Future.valid`` holds for a row; the loss reads the first 128 rows of the critic's batch, where theirs draws 128
others; gbar starts as g; K is the first paper's, where theirs has files with 6.
Letters: B batch, H W image, C channels, K steps, F features, A action.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, Shaped, UInt8

from covr_jax.agents import augment
from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Metrics, Views, momentum_encoder
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.methods.rad import rad_augmentation
from covr_jax.agents.networks import Networks, Params
from covr_jax.agents.networks.predictors import perceptron, predictor
from covr_jax.config import SACConfig
from covr_jax.types import Batch, Future

STEPS = 5  # K
ROWS = 128  # rows of a batch that the loss reads, at most
PROJECTION = 100  # hidden units of the projection and the prediction head
_STRENGTH, _CLIP = 0.05, 2.0  # standard deviation of the brightness, and its bound in standard deviations
_MIN_NORM = 1e-3


def first_rows(name: str, batch: Batch) -> tuple[UInt8[Array | np.ndarray, "B H W C"], Future]:
    """Returns the observations and the future of the batch's first ``ROWS`` rows.

    Args:
      name: name of the method, for the message.
      batch: transitions with a future.

    Raises:
      ValueError: the batch has no future.
    """
    if batch.future is None:
        raise ValueError(f"{name} needs batches with a future")
    action, reward, observation, valid, *_ = batch.future
    first = Future(action[:, :ROWS], reward[:, :ROWS], observation[:, :ROWS], valid[:ROWS])
    return batch.observation[:ROWS], first


def perturb(
    augmentation: Augmentation, key: PRNGKeyArray, images: UInt8[Array | np.ndarray, "B H W C"]
) -> Float[Array, "B H2 W2 C"]:
    """Augments images at random and changes their brightness; 255 becomes 1 at strength 1. The key is consumed."""
    view_key, strength_key = jax.random.split(key)
    strength = 1.0 + _STRENGTH * jax.random.normal(strength_key, images.shape[:1]).clip(-_CLIP, _CLIP)
    return augment.intensity(augmentation.random(view_key, images), strength)


def encode(
    networks: Networks, torso: Params, encoder: Params, images: Shaped[Array | np.ndarray, "B H W C"]
) -> Float[Array, "B F"]:
    """Returns the critic's features of images."""
    return networks.features.apply(encoder, networks.torso.apply(torso, images))


def init_heads(key: PRNGKeyArray, features: int) -> dict[str, Params]:
    """Initialises the projection and the prediction head on so many features. The key is consumed."""
    head, z = perceptron(features, PROJECTION), jnp.zeros((1, features))
    return dict(zip(("projection", "prediction"), (head.init(key, z) for key in jax.random.split(key)), strict=True))


def cosine_distance(
    params: Params, ema_params: Params, predicted: Float[Array, "*batch F"], target: Float[Array, "*batch F"]
) -> Float[Array, "*batch"]:
    """Returns 2 - 2 cos of the heads' outputs; no gradient reaches ``target``.

    Args:
      params: parameters of the projection and the prediction head.
      ema_params: moving average of the projection's parameters.
      predicted: predicted features.
      target: features of the target encoder.
    """
    head = perceptron(predicted.shape[-1], PROJECTION)
    online = head.apply(params["prediction"], head.apply(params["projection"], predicted))
    fixed = jax.lax.stop_gradient(head.apply(ema_params["projection"], target))
    return jnp.sum((_unit(online) - _unit(fixed)) ** 2, axis=-1)


def _unit(x: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    # The square is bounded before the root is taken, which has no gradient at 0.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x**2, axis=-1, keepdims=True), _MIN_NORM**2))


def self_prediction(networks: Networks, augmentation: Augmentation, action_dim: int, config: SACConfig) -> Auxiliary:
    """Returns the auxiliary loss: a latent model that predicts the target encoder's features."""
    del action_dim
    transition = predictor(config.feature_dim)

    def init(key: Array, features: Array, action: Array) -> Params:
        del features
        keys, z = jax.random.split(key), jnp.zeros((1, config.feature_dim))
        return {"transition": transition.init(keys[0], z, action), **init_heads(keys[1], config.feature_dim)}

    def loss(
        params: AuxiliaryParams, target: dict[str, Params], views: Views, batch: Batch, key: Array
    ) -> tuple[Array, Metrics]:
        del views
        observation, future = first_rows("spr", batch)
        online_key, target_key = jax.random.split(key)
        z = encode(networks, params.torso, params.encoder, perturb(augmentation, online_key, observation))
        predicted = []
        for action in future.action:
            z = transition.apply(params.auxiliary["transition"], z, action)
            predicted.append(z)
        flat = future.observation.reshape(-1, *observation.shape[1:])
        following = perturb(augmentation, target_key, flat)
        target_z = encode(networks, *momentum_encoder(target), following)
        error = cosine_distance(
            params.auxiliary, target["auxiliary"], jnp.stack(predicted), target_z.reshape(STEPS, *z.shape)
        )
        valid = future.valid.astype(z.dtype)
        return jnp.sum(valid * error.sum(0)) / jnp.maximum(valid.sum(), 1.0), {}

    return Auxiliary(init, loss, ema_params=("projection",))


def make(spec: MethodSpec) -> Method:
    """Returns SAC that predicts its own features; random crops unless the spec says otherwise."""
    return Method(rad_augmentation(spec), auxiliary=self_prediction, horizon=STEPS)
