"""Heads of auxiliary losses. Letters: B batch, A action, F features, K steps, U latent action."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp

from covr_jax.agents.networks.layers import ARITHMETIC, Features, Network, dense, pair
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
    return pair(Features(outputs, _EXACT, squash=True))
