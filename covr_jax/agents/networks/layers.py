"""Layers of the networks: convolutions, linear layers, projections and perceptrons.

Letters: B batch, H W image, C channels, K kernel side, N filters or torso features, F features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Shaped

from covr_jax.agents.networks.convolution import convolve, correlate

Params = Any
_RELU_GAIN = np.sqrt(2.0).item()
_DIFFERENCE_GAIN = 2.0  # weight of frame differences in the first kernel: frames differ in few pixels

Precision = Literal["float32", "tf32", "bfloat16"]
glorot = nn.initializers.glorot_uniform()


class Network(NamedTuple):
    """A network as two functions: ``init(key, *example inputs) -> params`` and ``apply(params, *inputs)``."""

    init: Callable[..., Params]
    apply: Callable[..., Any]


class Arithmetic(NamedTuple):
    """How products are computed: in ``dtype`` (None: that of the parameters), with ``precision``."""

    dtype: Any
    precision: jax.lax.Precision


ARITHMETIC: dict[Precision, Arithmetic] = {
    "float32": Arithmetic(None, jax.lax.Precision.HIGHEST),
    "tf32": Arithmetic(None, jax.lax.Precision.DEFAULT),  # what GPUs do with float32 unless told otherwise
    "bfloat16": Arithmetic(jnp.bfloat16, jax.lax.Precision.DEFAULT),
}


def orthogonal(scale: float = 1.0) -> nn.initializers.Initializer:
    """Returns flax's orthogonal initialisation for matrices that are factorised one after the other under ``vmap``.

    A batch of QR factorisations waits for threads of the pool in which it runs itself, and for ever if a second one
    does the same.
    """
    draw = nn.initializers.orthogonal(scale)

    def init(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        return jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))(key)

    return init


def delta_orthogonal(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Float[Array, "K K C N"]:
    """Initialises a kernel: orthogonal at the centre, zero elsewhere, times the gain sqrt(2) (Xiao et al. 2018)."""
    height, width, inputs, outputs = shape
    centre = orthogonal(_RELU_GAIN)(key, (inputs, outputs), dtype)
    return jnp.zeros(shape, dtype).at[height // 2, width // 2].set(centre)


def _on_differences(kernel: Float[Array, "K K C N"]) -> Float[Array, "K K C N"]:
    """Returns the kernel on stacked frames that equals ``kernel`` on (differences of neighbours, newest frame)."""
    size, _, channels, filters = kernel.shape
    blocks = kernel.reshape(size, size, channels // 3, 3, filters)
    change = _DIFFERENCE_GAIN * blocks[:, :, :-1]
    frames = blocks.at[:, :, :-1].set(-change).at[:, :, 1:].add(change)
    return frames.reshape(kernel.shape)


class Conv(nn.Module):
    """A VALID convolution and ReLU, or ELU; bytes are scaled to [0, 1], or to [-0.5, 0.5] with ``centre``."""

    filters: int
    size: int
    stride: int
    arithmetic: Arithmetic
    differences: bool = False
    centre: bool = False
    elu: bool = False  # with Glorot's initialisation instead of an orthogonal one

    @nn.compact
    def __call__(self, x: Shaped[Array, "B H W C"]) -> Float[Array, "B H2 W2 N"]:
        """Returns the activations for images or feature maps."""
        disjoint = self.size == self.stride  # windows share no pixel: a linear layer of each
        kernel_init = glorot if self.elu else orthogonal(_RELU_GAIN) if disjoint else delta_orthogonal
        kernel = self.param("kernel", kernel_init, (self.size, self.size, x.shape[-1], self.filters))
        bias = self.param("bias", nn.initializers.zeros_init(), (self.filters,))
        if self.differences:
            kernel = _on_differences(kernel)
        if self.centre:  # the same as subtracting 0.5 from every input
            bias = bias - 0.5 * kernel.sum((0, 1, 2))
        if x.dtype == jnp.uint8:
            kernel = kernel / 255.0
        dtype, precision = self.arithmetic.dtype or kernel.dtype, self.arithmetic.precision
        kernel, bias = kernel.astype(dtype), bias.astype(dtype)
        if self.elu:  # the kernel for CPUs has ReLU built in
            return nn.elu(correlate(x, kernel, self.stride, precision) + bias[None, None, None])
        return convolve(x, kernel, bias, self.stride, precision)


def dense(size: int, arithmetic: Arithmetic, name: str | None = None, bias: bool = True) -> nn.Dense:
    """Returns a linear layer with orthogonal initialisation."""
    kernel_init, (dtype, precision) = orthogonal(), arithmetic
    return nn.Dense(size, use_bias=bias, dtype=dtype, precision=precision, kernel_init=kernel_init, name=name)


class Projection(nn.Module):
    """Linear layer, LayerNorm and, where ``squash``, tanh."""

    size: int
    arithmetic: Arithmetic
    squash: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch N"]) -> Float[Array, "*batch F"]:
        """Returns features of ``size`` numbers."""
        x = dense(self.size, self.arithmetic, name="linear")(x)
        x = nn.LayerNorm(epsilon=1e-5, name="norm")(x)
        return jnp.tanh(x) if self.squash else x


class MLP(nn.Module):
    """Two hidden layers with ReLU.

    The last layer, which costs little, computes in the parameters' dtype: Q values need the precision.
    """

    hidden_dim: int
    outputs: int
    arithmetic: Arithmetic

    @nn.compact
    def __call__(self, x: Float[Array, "*batch F"]) -> Float[Array, "*batch outputs"]:
        """Returns ``outputs`` numbers per row."""
        for _ in range(2):
            x = nn.relu(dense(self.hidden_dim, self.arithmetic)(x))
        return dense(self.outputs, self.arithmetic._replace(dtype=None))(x)


def as_network(module: nn.Module) -> Network:
    """Returns the module as two functions of its parameters."""
    return Network(
        init=lambda key, *inputs: module.init(key, *inputs)["params"],
        apply=lambda params, *inputs: module.apply({"params": params}, *inputs),
    )
