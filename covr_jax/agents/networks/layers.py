"""What the networks are made of: convolutions, linear layers, features, perceptrons; each an (init, apply) pair.

Letters: B batch, H W image, C channels, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from covr_jax.agents.networks.convolution import convolve
from covr_jax.types import Array

Params = Any
_RELU_GAIN = np.sqrt(2.0).item()
_DIFFERENCE_GAIN = 2.0  # frames differ in few pixels: a larger share of the first kernel for them

Precision = Literal["float32", "tf32", "bfloat16"]


class Network(NamedTuple):
    """``init(key, *example inputs) -> params`` and ``apply(params, *inputs)``."""

    init: Callable[..., Params]
    apply: Callable[..., Any]


class Arithmetic(NamedTuple):
    """How products are computed: in ``dtype`` (None: that of the parameters), as exactly as ``precision`` asks."""

    dtype: Any
    precision: jax.lax.Precision


ARITHMETIC: dict[Precision, Arithmetic] = {
    "float32": Arithmetic(None, jax.lax.Precision.HIGHEST),
    "tf32": Arithmetic(None, jax.lax.Precision.DEFAULT),  # what GPUs do with float32 unless told otherwise
    "bfloat16": Arithmetic(jnp.bfloat16, jax.lax.Precision.DEFAULT),
}


def delta_orthogonal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Orthogonal at the centre tap, zero elsewhere, times the ReLU gain sqrt(2) (Xiao et al. 2018)."""
    height, width, inputs, outputs = shape
    centre = nn.initializers.orthogonal(scale=_RELU_GAIN)(key, (inputs, outputs), dtype)
    return jnp.zeros(shape, dtype).at[height // 2, width // 2].set(centre)


def _on_differences(kernel: Array) -> Array:
    """The kernel [k,k,3S,N] on stacked frames that equals ``kernel`` on (differences of neighbours, newest frame)."""
    size, _, channels, filters = kernel.shape
    blocks = kernel.reshape(size, size, channels // 3, 3, filters)
    change = _DIFFERENCE_GAIN * blocks[:, :, :-1]
    frames = blocks.at[:, :, :-1].set(-change).at[:, :, 1:].add(change)
    return frames.reshape(kernel.shape)


class Conv(nn.Module):
    """A VALID convolution and ReLU. Bytes count as 0 to 255 and are scaled to [0, 1], or [-0.5, 0.5] if ``centre``."""

    filters: int
    size: int
    stride: int
    arithmetic: Arithmetic
    differences: bool = False
    centre: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        apart = self.size == self.stride  # windows without a pixel in common: a linear layer of each
        start = nn.initializers.orthogonal(scale=_RELU_GAIN) if apart else delta_orthogonal
        kernel = self.param("kernel", start, (self.size, self.size, x.shape[-1], self.filters))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.filters,))
        if self.differences:
            kernel = _on_differences(kernel)
        if self.centre:  # the same as taking 0.5 from every input
            bias = bias - 0.5 * kernel.sum((0, 1, 2))
        if x.dtype == jnp.uint8:
            kernel = kernel / 255.0
        dtype, precision = self.arithmetic.dtype or kernel.dtype, self.arithmetic.precision
        kernel, bias = kernel.astype(dtype), bias.astype(dtype)
        return convolve(x, kernel, bias, self.stride, precision)


def dense(size: int, arithmetic: Arithmetic, name: str | None = None, bias: bool = True) -> nn.Dense:
    """A linear layer, orthogonal at first."""
    start, (dtype, precision) = nn.initializers.orthogonal(), arithmetic
    return nn.Dense(size, use_bias=bias, dtype=dtype, precision=precision, kernel_init=start, name=name)


class Projection(nn.Module):
    """Linear layer, LayerNorm and, where ``squash``, tanh."""

    size: int
    arithmetic: Arithmetic
    squash: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = dense(self.size, self.arithmetic, name="linear")(x)
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(x)
        return jnp.tanh(x) if self.squash else x


class MLP(nn.Module):
    """Two hidden layers with ReLU.

    The last layer, which costs next to nothing, computes in the parameters' dtype: Q values need the digits.
    """

    hidden: int
    outputs: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x: Array) -> Array:
        for _ in range(2):
            x = nn.relu(dense(self.hidden, self.arithmetic)(x))
        return dense(self.outputs, self.arithmetic._replace(dtype=None))(x)


def pair(module: nn.Module) -> Network:
    """The module as two functions of its parameters."""
    return Network(
        init=lambda key, *inputs: module.init(key, *inputs)["params"],
        apply=lambda params, *inputs: module.apply({"params": params}, *inputs),
    )
