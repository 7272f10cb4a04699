"""Heads of auxiliary losses.

Letters: B batch, A action, C channels, F features, K steps, N tokens, U latent action.
"""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from covr_jax.agents.networks.layers import ARITHMETIC, Network, Projection, as_network, dense

_EXACT = ARITHMETIC["float32"]


class _Predictor(nn.Module):
    """Linear, LayerNorm, ReLU, linear (the transition and reward models of DBC's DeepMDP)."""

    outputs: int
    hidden_dim: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        x = nn.LayerNorm(epsilon=1e-5)(dense(self.hidden_dim, _EXACT)(jnp.concatenate(inputs, -1)))
        return dense(self.outputs, _EXACT)(nn.relu(x))


class _Perceptron(nn.Module):
    """Linear, ReLU, linear."""

    outputs: int
    hidden_dim: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        x = nn.relu(dense(self.hidden_dim, _EXACT)(jnp.concatenate(inputs, -1)))
        return dense(self.outputs, _EXACT)(x)


class _ActionEncoder(nn.Module):
    """Linear, tanh, linear (TACO): f32[...,A] -> f32[...,U]."""

    outputs: int
    hidden_dim: int = 64

    @nn.compact
    def __call__(self, action: Array) -> Array:
        x = jnp.tanh(dense(self.hidden_dim, _EXACT)(action))
        return dense(self.outputs, _EXACT)(x)


class _Block(nn.Module):
    """A pre-norm transformer block: attention with one head, then two layers with GELU, both residual."""

    @nn.compact
    def __call__(self, x: Float[Array, "B N F"]) -> Float[Array, "B N F"]:
        size, exact = x.shape[-1], _EXACT.precision
        h = nn.LayerNorm(epsilon=1e-5, name="attention_norm")(x)
        query, key, value = jnp.split(dense(3 * size, _EXACT, name="attention_in", bias=False)(h), 3, axis=-1)
        weights = jax.nn.softmax(
            jnp.einsum("bnf,bmf->bnm", query, key, precision=exact) / np.sqrt(size).item(), axis=-1
        )
        x = x + dense(size, _EXACT, name="attention_out")(jnp.einsum("bnm,bmf->bnf", weights, value, precision=exact))
        h = nn.LayerNorm(epsilon=1e-5, name="perceptron_norm")(x)
        h = nn.gelu(dense(2 * size, _EXACT, name="perceptron_in")(h), approximate=False)
        return x + dense(size, _EXACT, name="perceptron_out")(h)


def _positions(steps: int, size: int) -> np.ndarray:
    """Sines, then cosines, of the step index at decreasing frequencies, f32[steps,size] (Vaswani et al. 2017)."""
    angles = np.arange(steps)[:, None] / 10_000.0 ** (np.arange(0, size, 2) / size)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)[:, :size].astype(np.float32)


class _LatentDecoder(nn.Module):
    """A transformer over s_0, a_0, s_1, ..., s_{K-1} that returns the tokens of the states (MLR)."""

    layers: int

    @nn.compact
    def __call__(self, states: Float[Array, "K B F"], actions: Float[Array, "K-1 B A"]) -> Float[Array, "K B F"]:
        (steps, batch, size), position = states.shape, _positions(*states.shape[::2])[:, None]
        states, actions = states + position, dense(size, _EXACT, name="action")(actions) + position[:-1]
        pairs = jnp.stack([states[:-1], actions], axis=1).reshape(2 * (steps - 1), batch, size)
        tokens = jnp.concatenate([pairs, states[-1:]]).transpose(1, 0, 2)
        for index in range(self.layers):
            tokens = _Block(name=f"block_{index}")(tokens)
        return tokens[:, ::2].transpose(1, 0, 2)


def predictor(outputs: int, hidden_dim: int = 512) -> Network:
    """Returns a network (f32[B,.], ...) -> f32[B,outputs] with one hidden layer and LayerNorm."""
    return as_network(_Predictor(outputs, hidden_dim))


def perceptron(outputs: int, hidden_dim: int) -> Network:
    """Returns a network (f32[B,.], ...) -> f32[B,outputs] with one hidden layer."""
    return as_network(_Perceptron(outputs, hidden_dim))


def action_encoder(outputs: int) -> Network:
    """Returns a network f32[...,A] -> f32[...,outputs]."""
    return as_network(_ActionEncoder(outputs))


def pointwise(outputs: int) -> Network:
    """Returns a 1x1 convolution with bias, f32[...,C] -> f32[...,outputs]."""
    return as_network(dense(outputs, _EXACT))


def projection(outputs: int) -> Network:
    """Returns a network f32[B,.] -> f32[B,outputs]: linear, LayerNorm, tanh."""
    return as_network(Projection(outputs, _EXACT, squash=True))


def latent_decoder(layers: int) -> Network:
    """Returns a network (states f32[K,B,F], actions f32[K-1,B,A]) -> f32[K,B,F]."""
    return as_network(_LatentDecoder(layers))
