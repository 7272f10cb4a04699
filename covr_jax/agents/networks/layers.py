"""What the networks are made of: convolutions, linear layers, features, perceptrons; each an (init, apply) pair.

Letters: B batch, H W image, C channels, F features.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from functools import partial, reduce
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.lax import platform_dependent

from covr_jax import runtime
from covr_jax.types import Array

Params = Any
_RELU_GAIN = np.sqrt(2.0).item()
_MOST_PARTS, _PART = 16, 2**18  # of a batch, numbers in one; see _convolution
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
    """A VALID convolution and ReLU. Bytes count as 0 to 255 and are scaled to [0, 1], or [-0.5, 0.5] if ``centre``.

    Windows that do not overlap become one matrix product: the same numbers, but the gradient of a convolution with
    large strides takes three times as long on CPU.
    """

    filters: int
    size: int
    stride: int
    arithmetic: Arithmetic
    differences: bool = False
    centre: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        patches = self.size == self.stride
        start = nn.initializers.orthogonal(scale=_RELU_GAIN) if patches else delta_orthogonal
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
        x = _product(x, kernel, precision) if patches else _convolution(x, kernel, self.stride, precision)
        return _rectified(x, bias)


@jax.custom_vjp
@runtime.standalone
def _rectified(x: Array, bias: Array) -> Array:
    """ReLU of x[B,H,W,N] + bias[N]; its gradient is 0 at 0."""
    return nn.relu(x + bias[None, None, None])


def _rectified_forward(x: Array, bias: Array) -> tuple[Array, Array]:
    y = _rectified(x, bias)
    return y, y


def _rectified_backward(y: Array, gradient: Array) -> tuple[Array, Array]:
    gradient = jax.lax.select(y > 0, gradient, jnp.zeros_like(gradient))
    rows = gradient.reshape(-1, y.shape[2] * y.shape[3]).sum(0)  # long rows first: short ones add up slowly
    return gradient, rows.reshape(y.shape[2:]).sum(0)


_rectified.defvjp(_rectified_forward, _rectified_backward)


def _convolve(x: Array, kernel: Array, stride: int, precision: jax.lax.Precision) -> Array:
    strides, order = (stride, stride), ("NHWC", "HWIO", "NHWC")
    x = x.astype(kernel.dtype)
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=order, precision=precision)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolution(x: Array, kernel: Array, stride: int, precision: jax.lax.Precision) -> Array:
    """VALID convolution of x[B,H,W,C]; bytes are converted, and have no gradient.

    On CPU the gradient of a kernel runs on one core, but several of them run side by side if enough are ready: a large
    batch is taken in parts.
    """
    return _convolve(x, kernel, stride, precision)


def _convolution_forward(x: Array, kernel: Array, *options: Any) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, *options), (x, kernel)


def _convolution_backward(
    stride: int, precision: jax.lax.Precision, operands: tuple[Array, Array], gradient: Array
) -> tuple[Array | None, Array]:
    x, kernel = operands

    def of_kernel(x: Array, gradient: Array) -> Array:
        return jax.vjp(lambda kernel: _convolve(x, kernel, stride, precision), kernel)[1](gradient)[0]

    def of_kernel_in_parts(x: Array, gradient: Array) -> Array:
        size = -(-len(x) // max(1, min(_MOST_PARTS, x.size // _PART)))
        parts = [slice(start, start + size) for start in range(0, len(x), size)]
        return reduce(operator.add, [of_kernel(x[part], gradient[part]) for part in parts])

    kernel_gradient = platform_dependent(x, gradient, cpu=of_kernel_in_parts, default=of_kernel)
    if x.dtype == jnp.uint8:
        return None, kernel_gradient
    return jax.vjp(lambda x: _convolve(x, kernel, stride, precision), x)[1](gradient)[0], kernel_gradient


_convolution.defvjp(_convolution_forward, _convolution_backward)


def _product(x: Array, kernel: Array, precision: jax.lax.Precision) -> Array:
    """Patches are cut from bytes where the images are bytes: a quarter of the traffic."""
    (batch, height, width, channels), (size, _, _, filters) = x.shape, kernel.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch * rows * columns, size * size * channels)
    x = jnp.matmul(x.astype(kernel.dtype), kernel.reshape(-1, filters), precision=precision)
    return x.reshape(batch, rows, columns, filters)


def dense(size: int, arithmetic: Arithmetic, name: str | None = None, bias: bool = True) -> nn.Dense:
    """A linear layer, orthogonal at first."""
    start, (dtype, precision) = nn.initializers.orthogonal(), arithmetic
    return nn.Dense(size, use_bias=bias, dtype=dtype, precision=precision, kernel_init=start, name=name)


class Features(nn.Module):
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
