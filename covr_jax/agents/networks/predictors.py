"""Heads of auxiliary losses. Letters: B batch, A action, F features, K steps, N tokens, U latent action."""

from __future__ import annotations

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.agents.networks.layers import ARITHMETIC, Network, Projection, dense, pair
from covr_jax.types import Array

_EXACT = ARITHMETIC["float32"]


class _Predictor(nn.Module):
    """Linear, LayerNorm, ReLU, linear (the transition and reward models of DBC's DeepMDP)."""

    outputs: int
    hidden: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        x = nn.LayerNorm(epsilon=1e-5)(dense(self.hidden, _EXACT)(jnp.concatenate(inputs, -1)))
        return dense(self.outputs, _EXACT)(nn.relu(x))


class _Perceptron(nn.Module):
    """Linear, ReLU, linear."""

    outputs: int
    hidden: int

    @nn.compact
    def __call__(self, *inputs: Array) -> Array:
        x = nn.relu(dense(self.hidden, _EXACT)(jnp.concatenate(inputs, -1)))
        return dense(self.outputs, _EXACT)(x)


class _ActionEncoder(nn.Module):
    """Linear, tanh, linear: f32[...,A] -> f32[...,U] (TACO)."""

    outputs: int
    hidden: int = 64

    @nn.compact
    def __call__(self, action: Array) -> Array:
        x = jnp.tanh(dense(self.hidden, _EXACT)(action))
        return dense(self.outputs, _EXACT)(x)


class _Block(nn.Module):
    """f32[B,N,F]: attention with one head, then two layers with GELU, each of normalised tokens and added to them."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        size, exact = x.shape[-1], _EXACT.precision
        h = nn.LayerNorm(epsilon=1e-5, name="attention_norm")(x)
        query, key, value = jnp.split(dense(3 * size, _EXACT, name="attention_in", bias=False)(h), 3, axis=-1)
        share = jax.nn.softmax(jnp.einsum("bnf,bmf->bnm", query, key, precision=exact) / np.sqrt(size).item(), axis=-1)
        x = x + dense(size, _EXACT, name="attention_out")(jnp.einsum("bnm,bmf->bnf", share, value, precision=exact))
        h = nn.LayerNorm(epsilon=1e-5, name="perceptron_norm")(x)
        h = nn.gelu(dense(2 * size, _EXACT, name="perceptron_in")(h), approximate=False)
        return x + dense(size, _EXACT, name="perceptron_out")(h)


def _positions(steps: int, size: int) -> np.ndarray:
    """Sines, then cosines, of the step's number at falling rates, f32[steps,size] (Vaswani et al. 2017)."""
    angles = np.arange(steps)[:, None] / 10_000.0 ** (np.arange(0, size, 2) / size)
    return np.concatenate([np.sin(angles), np.cos(angles)], -1)[:, :size].astype(np.float32)


class _LatentDecoder(nn.Module):
    """A transformer over s_0, a_0, s_1, ..., s_{K-1}; what stands in the states' places (MLR)."""

    layers: int

    @nn.compact
    def __call__(self, states: Array, actions: Array) -> Array:
        (steps, rows, size), place = states.shape, _positions(*states.shape[::2])[:, None]
        states, actions = states + place, dense(size, _EXACT, name="action")(actions) + place[:-1]
        pairs = jnp.stack([states[:-1], actions], axis=1).reshape(2 * (steps - 1), rows, size)
        tokens = jnp.concatenate([pairs, states[-1:]]).transpose(1, 0, 2)
        for index in range(self.layers):
            tokens = _Block(name=f"block_{index}")(tokens)
        return tokens[:, ::2].transpose(1, 0, 2)


def predictor(outputs: int, hidden: int = 512) -> Network:
    """(f32[B,.], ...) -> f32[B,outputs], with LayerNorm."""
    return pair(_Predictor(outputs, hidden))


def perceptron(outputs: int, hidden: int) -> Network:
    """(f32[B,.], ...) -> f32[B,outputs]."""
    return pair(_Perceptron(outputs, hidden))


def action_encoder(outputs: int) -> Network:
    """f32[...,A] -> f32[...,outputs]."""
    return pair(_ActionEncoder(outputs))


def pointwise(outputs: int) -> Network:
    """f32[...,C] -> f32[...,outputs]: a 1x1 convolution with bias."""
    return pair(dense(outputs, _EXACT))


def projection(outputs: int) -> Network:
    """f32[B,.] -> f32[B,outputs]: linear, LayerNorm, tanh."""
    return pair(Projection(outputs, _EXACT, squash=True))


def latent_decoder(layers: int) -> Network:
    """(states f32[K,B,F], actions f32[K-1,B,A]) -> f32[K,B,F]."""
    return pair(_LatentDecoder(layers))
