"""Policies: how the outputs of an actor network become actions in [-1, 1]. Letters: B batch, A action."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from covr_jax.agents.losses import squash_log_det, squashed_sample

_EDGE = 1e-6  # noisy actions stay inside of [-1, 1] by this much [DrQ-v2]
_CLIP = 0.3  # bound of the noise in losses [DrQ-v2]
_LOG_2PI_E = 2.8378770664093453
_POINTS, _WEIGHTS = (x.astype(np.float32) for x in np.polynomial.hermite_e.hermegauss(32))


class Policy(NamedTuple):
    """The functions of a policy.

    ``outputs`` are the actor network's: (mean, log_std) f32[B,A] of a stochastic policy, the mean f32[B,A] of a
    deterministic one, both before the tanh. ``noise`` f32[] is the standard deviation with which deterministic policies
    explore; others ignore it.

    An ``entropy_regularised`` policy has a temperature, and its log probability enters targets and losses. It is 0 for
    the others, which leaves the deterministic policy gradient.
    """

    mode: Callable[[Any], Array]  # outputs -> action f32[B,A] without noise
    explore: Callable[[Array, Any, Array], Array]  # (key, outputs, noise) -> action f32[B,A]
    sample: Callable[[Array, Any, Array], tuple[Array, Array]]  # for losses -> action f32[B,A], log_prob f32[B]
    entropy: Callable[[Array, Any, Array], Array]  # one-sample estimate -log pi(a|s), nats, f32[B]
    mean_entropy: Callable[[Any, Array], Array]  # (outputs, noise) -> entropy without sampling, nats, f32[B]
    entropy_regularised: bool
    improve: Callable[[Array, Any, Array], tuple[Array, Array]] | None = None  # as ``sample``, in the actor's loss


Gaussian = tuple[Float[Array, "*batch A"], Float[Array, "*batch A"]]  # mean and log_std, before the tanh


def _gaussian_sample(
    key: PRNGKeyArray, outputs: Gaussian, noise: Float[Array, ""]
) -> tuple[Float[Array, "*batch A"], Float[Array, "*batch"]]:
    del noise
    return squashed_sample(key, *outputs)


def _gaussian_entropy(outputs: Gaussian, noise: Float[Array, ""]) -> Float[Array, "*batch"]:
    """Returns H = sum_d (log sigma + 1/2 log 2 pi e + E[log(1 - tanh(u)^2)]), the mean by Gauss-Hermite quadrature.

    Without samples, so that observations can be ranked. Off by 1e-6 nats per dimension for sigma up to 1, by 2e-4 for 2
    and by less than 0.1 for the largest of 7.
    """
    del noise
    mean, log_std = outputs
    pre_tanh = mean[..., None] + jnp.exp(log_std)[..., None] * _POINTS
    log_det = jnp.sum(squash_log_det(pre_tanh) * _WEIGHTS, axis=-1) / _WEIGHTS.sum()
    return jnp.sum(log_std + 0.5 * _LOG_2PI_E + log_det, axis=-1)


squashed_gaussian = Policy(
    mode=lambda outputs: jnp.tanh(outputs[0]),
    explore=lambda key, outputs, noise: _gaussian_sample(key, outputs, noise)[0],
    sample=_gaussian_sample,
    entropy=lambda key, outputs, noise: -_gaussian_sample(key, outputs, noise)[1],
    mean_entropy=_gaussian_entropy,
    entropy_regularised=True,
)


@jax.custom_jvp
def clip_straight_through(action: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Clips to [-1, 1] with the gradient of the identity (DrQ-v2)."""
    return jnp.clip(action, -1.0 + _EDGE, 1.0 - _EDGE)


clip_straight_through.defjvp(lambda primals, tangents: (clip_straight_through(*primals), tangents[0]))


def _noisy(
    key: PRNGKeyArray, mean: Float[Array, "*batch A"], noise: Float[Array, ""], clip: float | None
) -> Float[Array, "*batch A"]:
    change = noise * jax.random.normal(key, mean.shape, mean.dtype)
    if clip is not None:
        change = jnp.clip(change, -clip, clip)
    return clip_straight_through(jnp.tanh(mean) + change)


def _noisy_sample(
    key: PRNGKeyArray, mean: Float[Array, "*batch A"], noise: Float[Array, ""]
) -> tuple[Float[Array, "*batch A"], Float[Array, "*batch"]]:
    return _noisy(key, mean, noise, _CLIP), jnp.zeros(mean.shape[:-1], mean.dtype)


def _noiseless_sample(
    key: PRNGKeyArray, mean: Float[Array, "*batch A"], noise: Float[Array, ""]
) -> tuple[Float[Array, "*batch A"], Float[Array, "*batch"]]:
    del key, noise
    return jnp.tanh(mean), jnp.zeros(mean.shape[:-1], mean.dtype)


def _noise_entropy(mean: Float[Array, "*batch A"], noise: Float[Array, ""]) -> Float[Array, "*batch"]:
    """Returns the entropy of the noise, as if it were not clipped."""
    per_dimension = 0.5 * _LOG_2PI_E + jnp.log(jnp.maximum(noise, _EDGE))
    return jnp.full(mean.shape[:-1], mean.shape[-1]) * per_dimension


# a = clip(tanh(mean) + noise * N(0, 1)); in losses the noise is clipped at 0.3 (Yarats et al. 2021, DrQ-v2).
noisy_deterministic = Policy(
    mode=jnp.tanh,
    explore=lambda key, mean, noise: _noisy(key, mean, noise, None),
    sample=_noisy_sample,
    entropy=lambda key, mean, noise: _noise_entropy(mean, noise),
    mean_entropy=_noise_entropy,
    entropy_regularised=False,
)
# The same in targets and for exploring; the actor's loss has no noise (Fujimoto et al. 2018, TD3).
smoothed_deterministic = noisy_deterministic._replace(improve=_noiseless_sample)
