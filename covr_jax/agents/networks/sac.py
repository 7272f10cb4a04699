"""Encoder, actor and twin critic of pixel agents.

Encoder of SAC-AE (Yarats et al. 2019): VALID convolutions (3x3 there), ReLU, a linear layer to
``feature_dim``, LayerNorm, and with ``squash`` its tanh. Actor and critic share the convolutions; each has its own
linear layer and LayerNorm.
Letters: B batch, H W image, C channels, N torso features, F features, A action.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from covr_jax.agents.networks.layers import (
    ARITHMETIC,
    MLP,
    Arithmetic,
    Conv,
    Network,
    Params,
    Precision,
    Projection,
    as_network,
)


class Networks(NamedTuple):
    """The networks of an agent.

    Attributes:
      torso: u8[B,H,W,C] -> f32[B,N], or bf16[B,N] where products are computed in bfloat16. All that actor and critic
        share: the convolutions; of MR.Q the whole state encoder.
      actor: torso features (and the previous action f32[B,A] of residual actors) -> (mean, log_std) f32[B,A], or the
        mean only of deterministic actors; before the tanh.
      critic: torso features and action f32[B,A] -> f32[2,B].
      features: torso features (and action f32[B,A], where the encoder reads it) -> f32[B,F], with the critic's
        ``encoder`` parameters.
    """

    torso: Network
    actor: Network
    critic: Network
    features: Network


class Convolutions(nn.Module):
    """Convolutions one after the other; ``differences`` and ``centre`` concern the first."""

    filters: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    differences: bool
    centre: bool
    arithmetic: Arithmetic
    elu: bool = False

    @nn.compact
    def __call__(self, x: UInt8[Array, "B H W C"]) -> Float[Array, "B N"]:
        """Returns the last feature map, row by row."""
        for index, (filters, size, stride) in enumerate(zip(self.filters, self.kernels, self.strides, strict=True)):
            first = index == 0
            layer = Conv(
                filters, size, stride, self.arithmetic, self.differences and first, self.centre and first, self.elu,
                name=f"conv_{index}",
            )  # fmt: skip
            x = layer(x)
        return x.reshape(x.shape[0], -1)


class FrameDiffEncoder(nn.Module):
    """Features of the newest frames minus features of the frames one step before; each has its own convolutions."""

    filters: tuple[int, ...]
    kernels: tuple[int, ...]
    strides: tuple[int, ...]
    differences: bool
    centre: bool
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x: UInt8[Array, "B H W C"]) -> Float[Array, "B N"]:
        """Returns the difference of features; C holds one frame more than the convolutions read."""
        options = (self.filters, self.kernels, self.strides, self.differences, self.centre, self.arithmetic)
        now = Convolutions(*options, name="now")(x[..., 3:])
        return now - Convolutions(*options, name="before")(x[..., :-3])


class _Actor(nn.Module):
    feature_dim: int
    hidden_dim: int
    action_dim: int
    log_std_range: tuple[float, float]
    arithmetic: Arithmetic
    squash: bool
    stochastic: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, "B N"], previous_action: Float[Array, "B A"] | None = None
    ) -> tuple[Float[Array, "B A"], Float[Array, "B A"]] | Float[Array, "B A"]:
        x = Projection(self.feature_dim, self.arithmetic, self.squash, name="encoder")(x)
        if previous_action is not None:
            x = jnp.concatenate([x, previous_action], axis=-1)
        outputs = self.action_dim * (2 if self.stochastic else 1)
        x = MLP(self.hidden_dim, outputs, self.arithmetic, name="head")(x)
        if not self.stochastic:
            return x
        mean, log_std = jnp.split(x, 2, axis=-1)
        low, high = self.log_std_range
        log_std = low + 0.5 * (high - low) * (jnp.tanh(log_std) + 1.0)
        return (mean if previous_action is None else previous_action + mean), log_std


class _Critic(nn.Module):
    feature_dim: int
    hidden_dim: int
    arithmetic: Arithmetic
    squash: bool

    @nn.compact
    def __call__(self, x: Float[Array, "B N"], action: Float[Array, "B A"]) -> Float[Array, "2 B"]:
        x = Projection(self.feature_dim, self.arithmetic, self.squash, name="encoder")(x)
        x = jnp.concatenate([x, action], axis=-1)
        twin = nn.vmap(
            MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType]
            out_axes=0,
            axis_size=2,
        )
        return twin(self.hidden_dim, 1, self.arithmetic, name="heads")(x)[..., 0]


def make_networks(
    action_dim: int,
    *,
    num_filters: int | tuple[int, ...] = 32,
    conv_kernels: tuple[int, ...] = (3, 3, 3, 3),
    conv_strides: tuple[int, ...] = (2, 1, 1, 1),
    frame_basis: Literal["frames", "differences"] = "frames",
    feature_dim: int = 50,
    hidden_dim: int = 1024,
    log_std_range: tuple[float, float] = (-10.0, 2.0),
    precision: Precision = "float32",
    squash: bool = False,
    centre: bool = False,
    frame_diff: bool = False,
    stochastic: bool = True,
) -> Networks:
    """Returns the networks of a pixel agent, with orthogonal initialisation and zero biases, as in SAC-AE.

    Args:
      action_dim: A.
      num_filters: channels of every convolution, or of each.
      conv_kernels: kernel side of each convolution, pixels.
      conv_strides: stride of each convolution, pixels.
      frame_basis: what the first convolution's weights multiply: the stacked ``frames``, or the newest frame and the
        ``differences`` of neighbours; the same functions in coordinates in which Adam finds motion sooner.
      feature_dim: F.
      hidden_dim: units of the hidden layers of actor and critic.
      log_std_range: smallest and largest log standard deviation of the actor.
      precision: precision of convolutions and matrix products, forward and backward; parameters and outputs stay
        float32.
      squash: apply a tanh to the features.
      centre: scale pixels to [-0.5, 0.5] instead of [0, 1].
      frame_diff: subtract the features of the stack one frame before; observations then hold one frame more.
      stochastic: the actor returns a mean and a log standard deviation, not a mean only.
    """
    filters = (num_filters,) * len(conv_kernels) if isinstance(num_filters, int) else num_filters
    arithmetic, differences = ARITHMETIC[precision], frame_basis == "differences"
    torso = FrameDiffEncoder if frame_diff else Convolutions
    return Networks(
        torso=as_network(torso(filters, conv_kernels, conv_strides, differences, centre, arithmetic)),
        actor=as_network(_Actor(feature_dim, hidden_dim, action_dim, log_std_range, arithmetic, squash, stochastic)),
        critic=as_network(_Critic(feature_dim, hidden_dim, arithmetic, squash)),
        features=as_network(Projection(feature_dim, arithmetic, squash)),
    )


def init_networks(
    networks: Networks, key: Array, images: Array, action: Array, *actor_inputs: Array
) -> dict[str, Params]:
    """Initialises the parameters; the inputs give the shapes only.

    Args:
      networks: the networks of an agent.
      key: PRNG key, consumed.
      images: u8[B,H,W,C].
      action: the action as the critic reads it, f32[B,A] or embedded.
      *actor_inputs: what the actor reads beside features, f32[B,A].

    Returns:
      Parameters by the keys "torso", "actor" and "critic".
    """
    torso_key, actor_key, critic_key = jax.random.split(key, 3)
    torso = networks.torso.init(torso_key, images)
    features = networks.torso.apply(torso, images)
    return {
        "torso": torso,
        "actor": networks.actor.init(actor_key, features, *actor_inputs),
        "critic": networks.critic.init(critic_key, features, action),
    }
