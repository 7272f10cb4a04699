"""Networks of MR.Q (Fujimoto et al. 2025): encoders of states and of state-action pairs, twin critic, actor.

Linear layers are initialised after Glorot and Bengio (2010), their biases with 0; LayerNorm has no parameters.
Letters: B batch, H W image, C channels, A action, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from covr_jax.agents.networks.layers import ARITHMETIC, Arithmetic, Network, Precision, as_network, glorot
from covr_jax.agents.networks.sac import Convolutions, Networks

_EXACT = ARITHMETIC["float32"]


def _linear(size: int, arithmetic: Arithmetic, name: str | None = None) -> nn.Dense:
    return nn.Dense(size, dtype=arithmetic.dtype, precision=arithmetic.precision, kernel_init=glorot, name=name)


def _normalised(x: Float[Array, "*batch F"]) -> Float[Array, "*batch F"]:
    return nn.LayerNorm(epsilon=1e-5, use_scale=False, use_bias=False)(x)


class _MLP(nn.Module):
    """Hidden layers, each linear, LayerNorm, activation; then a linear one in the parameters' dtype."""

    layers: int
    hidden_dim: int
    outputs: int
    activation: Callable[[Array], Array]
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x: Float[Array, "*batch F"]) -> Float[Array, "*batch outputs"]:
        for _ in range(self.layers):
            x = self.activation(_normalised(_linear(self.hidden_dim, self.arithmetic)(x)))
        return _linear(self.outputs, self.arithmetic._replace(dtype=None))(x)


class _StateEncoder(nn.Module):
    """Convolutions with ELU, linear, LayerNorm, ELU: f_omega."""

    convolutions: Convolutions
    feature_dim: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x: UInt8[Array, "B H W C"]) -> Float[Array, "B F"]:
        x = _linear(self.feature_dim, self.arithmetic, name="linear")(self.convolutions(x))
        return nn.elu(_normalised(x))


class _PairEncoder(nn.Module):
    """g_omega: the action is encoded by itself, then with the state by two hidden layers."""

    feature_dim: int
    hidden_dim: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, z: Float[Array, "B F"], action: Float[Array, "B A"]) -> Float[Array, "B F"]:
        encoded = nn.elu(_linear(max(self.hidden_dim // 2, 1), self.arithmetic, name="action")(action))
        mlp = _MLP(2, self.hidden_dim, self.feature_dim, nn.elu, self.arithmetic, name="mlp")
        return mlp(jnp.concatenate([z, encoded], axis=-1))


class _Critic(nn.Module):
    feature_dim: int
    hidden_dim: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, z: Float[Array, "B F"], action: Float[Array, "B A"]) -> Float[Array, "2 B"]:
        x = _PairEncoder(self.feature_dim, self.hidden_dim, self.arithmetic, name="encoder")(z, action)
        twin = nn.vmap(
            _MLP,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=None,  # pyright: ignore[reportArgumentType]
            out_axes=0,
            axis_size=2,
        )
        return twin(3, self.hidden_dim, 1, nn.elu, self.arithmetic, name="heads")(x)[..., 0]


class _Actor(nn.Module):
    hidden_dim: int
    action_dim: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, z: Float[Array, "B F"]) -> Float[Array, "B A"]:
        return _MLP(2, self.hidden_dim, self.action_dim, nn.relu, self.arithmetic, name="head")(z)


def linear_model(outputs: int) -> Network:
    """Returns the linear MDP predictor m, f32[B,F] -> f32[B,outputs]."""
    return as_network(_linear(outputs, _EXACT))


def make_networks(
    action_dim: int,
    *,
    num_filters: tuple[int, ...],
    conv_kernels: tuple[int, ...],
    conv_strides: tuple[int, ...],
    frame_basis: Literal["frames", "differences"],
    feature_dim: int,
    hidden_dim: int,
    log_std_range: tuple[float, float],
    precision: Precision,
) -> Networks:
    """Returns the networks of MR.Q; the arguments are those of ``networks.sac.make_networks``.

    The torso is the state encoder, f_omega: u8[B,H,W,C] -> z_s f32[B,F]. ``features`` is the encoder of pairs,
    g_omega: (z_s, action f32[B,A]) -> z_sa f32[B,F], in which an action is encoded by half of ``hidden_dim`` units.

    Args:
      action_dim: A.
      num_filters: channels of each convolution.
      conv_kernels: kernel side of each convolution, pixels.
      conv_strides: stride of each convolution, pixels.
      frame_basis: what the first convolution's weights multiply.
      feature_dim: F.
      hidden_dim: units of the hidden layers of g_omega, actor and critic.
      log_std_range: not read, because the policy is deterministic.
      precision: of convolutions and matrix products.
    """
    del log_std_range
    arithmetic, differences = ARITHMETIC[precision], frame_basis == "differences"
    convolutions = Convolutions(num_filters, conv_kernels, conv_strides, differences, True, arithmetic, elu=True)
    return Networks(
        torso=as_network(_StateEncoder(convolutions, feature_dim, arithmetic)),
        actor=as_network(_Actor(hidden_dim, action_dim, arithmetic)),
        critic=as_network(_Critic(feature_dim, hidden_dim, arithmetic)),
        features=as_network(_PairEncoder(feature_dim, hidden_dim, arithmetic)),
    )
