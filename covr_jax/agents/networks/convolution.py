"""Convolution, bias and ReLU: XLA's, and on CPU one kernel for all three (``convolution.cc``).

XLA's convolutions on CPU reach two thirds of its speed, and take the gradient of a kernel on one core.
Letters: B batch, H W image, C channels, K kernel side, N filters.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.lax import platform_dependent

from covr_jax import runtime
from covr_jax.runtime import cpu_kernels
from covr_jax.types import Array

_SOURCE = Path(__file__).with_name("convolution.cc")
FORWARD, GRADIENTS, GRADIENTS_WITH_X = TARGETS = (
    "covr_convolution", "covr_convolution_gradients", "covr_convolution_gradients_with_x",
)  # fmt: skip
_FILTERS, _LARGEST_SIDE = 32, 16  # what convolution.cc computes at once, and what it has room for


def convolve(x: Array, kernel: Array, bias: Array, stride: int, precision: jax.lax.Precision) -> Array:
    """relu(VALID convolution + bias) of x[B,H,W,C], kernel[K,K,C,N], bias[N]; bytes count as 0 to 255."""
    side, _, _, filters = kernel.shape
    fits = filters % _FILTERS == 0 and side <= min(_LARGEST_SIDE, *x.shape[1:3]) and kernel.dtype == jnp.float32
    if fits and x.size and x.dtype in (jnp.float32, jnp.uint8) and has_kernel():
        return _fused(x, kernel, bias, stride, precision)
    return rectified(_linear(x, kernel, stride, precision), bias)


def has_kernel() -> bool:
    """Whether ``convolution.cc`` takes part: on CPU, where there is a C++ compiler; the first call compiles it."""
    return cpu_kernels.targets(_SOURCE, *TARGETS)


def _linear(x: Array, kernel: Array, stride: int, precision: jax.lax.Precision) -> Array:
    """The convolution by XLA.

    Windows that do not overlap become one matrix product: the same numbers, but the gradient of a convolution with
    large strides takes three times as long on CPU.
    """
    if kernel.shape[0] == stride:
        return _product(x, kernel, precision)
    strides, order = (stride, stride), ("NHWC", "HWIO", "NHWC")
    x = x.astype(kernel.dtype)
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=order, precision=precision)


def _product(x: Array, kernel: Array, precision: jax.lax.Precision) -> Array:
    """Patches are cut from bytes where the images are bytes: a quarter of the traffic."""
    (batch, height, width, channels), (size, _, _, filters) = x.shape, kernel.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch * rows * columns, size * size * channels)
    x = jnp.matmul(x.astype(kernel.dtype), kernel.reshape(-1, filters), precision=precision)
    return x.reshape(batch, rows, columns, filters)


@jax.custom_vjp
@runtime.no_inline
def rectified(x: Array, bias: Array) -> Array:
    """ReLU of x[B,H,W,N] + bias[N]; its gradient is 0 at 0."""
    return nn.relu(x + bias[None, None, None])


def _rectified_forward(x: Array, bias: Array) -> tuple[Array, Array]:
    y = rectified(x, bias)
    return y, y


def _rectified_backward(y: Array, gradient: Array) -> tuple[Array, Array]:
    gradient = jax.lax.select(y > 0, gradient, jnp.zeros_like(gradient))
    rows = gradient.reshape(-1, y.shape[2] * y.shape[3]).sum(0)  # long rows first: short ones add up slowly
    return gradient, rows.reshape(y.shape[2:]).sum(0)


rectified.defvjp(_rectified_forward, _rectified_backward)


# ------------------------------------------------------------------------------------------ on CPU


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fused(x: Array, kernel: Array, bias: Array, stride: int, precision: jax.lax.Precision) -> Array:
    """One call on CPU. A program exported for another platform has XLA's convolution."""
    side, (batch, height, width, _) = kernel.shape[0], x.shape
    shape = (batch, (height - side) // stride + 1, (width - side) // stride + 1, kernel.shape[-1])

    def by_kernel(*operands: Array) -> Array:
        return _call(FORWARD, jax.ShapeDtypeStruct(shape, kernel.dtype), stride, *operands)

    def by_xla(x: Array, kernel: Array, bias: Array) -> Array:
        return rectified(_linear(x, kernel, stride, precision), bias)

    return platform_dependent(x, kernel, bias, cpu=by_kernel, default=by_xla)


def _fused_forward(x: Any, kernel: Any, bias: Any, stride: int, precision: jax.lax.Precision) -> tuple[Array, Any]:
    y = _fused(x.value, kernel.value, bias.value, stride, precision)
    of_x = True if x.perturbed else None  # None is no leaf: it stays a constant of the program
    return y, (x.value, kernel.value, y, of_x)


def _fused_backward(stride: int, precision: jax.lax.Precision, kept: Any, gradient: Any) -> tuple[Array | None, ...]:
    x, kernel, y, of_x = kept
    if isinstance(gradient, SymbolicZero):
        return None, None, None
    wanted = of_x is not None
    at_once = wanted and stride == 1 and x.shape[-1] % _FILTERS == 0  # convolution.cc has all three gradients

    def of_images(x: Array, kernel: Array, masked: Array) -> tuple[Array, ...]:
        return jax.vjp(lambda x: _linear(x, kernel, stride, precision), x)[1](masked) if wanted else ()

    def on_cpu(x: Array, kernel: Array, y: Array, gradient: Array) -> tuple[Array, ...]:
        shapes = [jax.ShapeDtypeStruct(each, kernel.dtype) for each in (kernel.shape, y.shape[-1:], x.shape)]
        if at_once:
            return tuple(_call(GRADIENTS_WITH_X, shapes, stride, x, kernel, y, gradient))
        others = of_images(x, kernel, _rectified_backward(y, gradient)[0])
        return *_call(GRADIENTS, shapes[:2], stride, x, kernel, y, gradient), *others

    def by_xla(x: Array, kernel: Array, y: Array, gradient: Array) -> tuple[Array, ...]:
        masked, of_bias = _rectified_backward(y, gradient)
        of_kernel = jax.vjp(lambda kernel: _linear(x, kernel, stride, precision), kernel)[1](masked)[0]
        return of_kernel, of_bias, *of_images(x, kernel, masked)

    of_kernel, of_bias, *rest = platform_dependent(x, kernel, y, gradient, cpu=on_cpu, default=by_xla)
    return (rest[0] if rest else None), of_kernel, of_bias


_fused.defvjp(_fused_forward, _fused_backward, symbolic_zeros=True)


def _call(target: str, shapes: Any, stride: int, *operands: Array) -> Any:
    return jax.ffi.ffi_call(target, shapes, vmap_method="sequential")(*operands, stride=stride)
