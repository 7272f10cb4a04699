"""Convolution, bias and ReLU by XLA, or on CPU by one C++ kernel for all three (``convolution.cc``).

XLA's convolutions on CPU reach two thirds of its speed and compute the gradient of a kernel on one core.
Letters: B batch, H W image, P Q output image, C channels, K kernel side, N filters.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.lax import platform_dependent
from jaxtyping import Array, Float, Shaped

from covr_jax import runtime
from covr_jax.runtime import cpu_kernels

_SOURCE = Path(__file__).with_name("convolution.cc")
FORWARD, GRADIENTS, GRADIENTS_WITH_X = TARGETS = (
    "covr_convolution", "covr_convolution_gradients", "covr_convolution_gradients_with_x",
)  # fmt: skip
_FILTERS = 16  # whose multiples are the filters that convolution.cc takes

Images = Shaped[Array | np.ndarray, "B H W C"]  # u8, or the kernel's dtype
Kernel = Float[Array | np.ndarray, "K K C N"]


def convolve(
    x: Images, kernel: Kernel, bias: Float[Array | np.ndarray, " N"], stride: int, precision: jax.lax.Precision
) -> Float[Array, "B P Q N"]:
    """Returns relu(VALID convolution + bias).

    Args:
      x: images or feature maps; bytes count as 0 to 255.
      kernel: HWIO.
      bias: one number per filter.
      stride: in both directions, pixels.
      precision: of the products where XLA computes them.
    """
    side, _, _, filters = kernel.shape
    fits = filters % _FILTERS == 0 and side <= min(x.shape[1:3]) and kernel.dtype == jnp.float32
    if fits and x.size and x.dtype in (jnp.float32, jnp.uint8) and has_kernel():
        return _fused(x, kernel, bias, stride, precision)
    return bias_relu(correlate(x, kernel, stride, precision), bias)


def has_kernel() -> bool:
    """Returns whether ``convolution.cc`` can be used: on CPU with a C++ compiler. The first call compiles it."""
    return cpu_kernels.targets(_SOURCE, *TARGETS)


def correlate(x: Any, kernel: Any, stride: int, precision: jax.lax.Precision) -> Float[Array, "B P Q N"]:
    """Returns the VALID convolution by XLA; arguments as of ``convolve``.

    Windows that do not overlap become one matrix product: the numbers are the same, but the gradient of a convolution
    with large strides takes three times as long on CPU.
    """
    if kernel.shape[0] == stride:
        return _patch_product(x, kernel, precision)
    strides, order = (stride, stride), ("NHWC", "HWIO", "NHWC")
    x = x.astype(kernel.dtype)
    return jax.lax.conv_general_dilated(x, kernel, strides, "VALID", dimension_numbers=order, precision=precision)


def _patch_product(x: Any, kernel: Any, precision: jax.lax.Precision) -> Float[Array, "B P Q N"]:
    """Returns the convolution of disjoint windows as one product.

    Patches are cut before the cast: where images are bytes, that is a quarter of the memory traffic.
    """
    (batch, height, width, channels), (size, _, _, filters) = x.shape, kernel.shape
    rows, columns = height // size, width // size
    x = x[:, : rows * size, : columns * size].reshape(batch, rows, size, columns, size, channels)
    x = x.transpose(0, 1, 3, 2, 4, 5).reshape(batch * rows * columns, size * size * channels)
    x = jnp.matmul(x.astype(kernel.dtype), kernel.reshape(-1, filters), precision=precision)
    return x.reshape(batch, rows, columns, filters)


@jax.custom_vjp
@runtime.no_inline
def bias_relu(x: Float[Array, "B P Q N"], bias: Float[Array | np.ndarray, " N"]) -> Float[Array, "B P Q N"]:
    """Returns relu(x + bias), whose gradient is 0 at 0."""
    return nn.relu(x + bias[None, None, None])


def _bias_relu_forward(x: Array, bias: Array) -> tuple[Array, Array]:
    y = bias_relu(x, bias)
    return y, y


def _bias_relu_backward(y: Array, gradient: Array) -> tuple[Array, Array]:
    gradient = jax.lax.select(y > 0, gradient, jnp.zeros_like(gradient))
    rows = gradient.reshape(-1, y.shape[2] * y.shape[3]).sum(0)  # long rows first: sums of short rows are slow
    return gradient, rows.reshape(y.shape[2:]).sum(0)


bias_relu.defvjp(_bias_relu_forward, _bias_relu_backward)


# ------------------------------------------------------------------------------------------ on CPU


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _fused(x: Array, kernel: Array, bias: Array, stride: int, precision: jax.lax.Precision) -> Array:
    """Calls the C++ kernel on CPU; a program exported for another platform has XLA's convolution."""
    side, (batch, height, width, _) = kernel.shape[0], x.shape
    shape = (batch, (height - side) // stride + 1, (width - side) // stride + 1, kernel.shape[-1])

    def on_cpu(*operands: Array) -> Array:
        return _call(FORWARD, jax.ShapeDtypeStruct(shape, kernel.dtype), stride, *operands)

    def by_xla(x: Array, kernel: Array, bias: Array) -> Array:
        return bias_relu(correlate(x, kernel, stride, precision), bias)

    return platform_dependent(x, kernel, bias, cpu=on_cpu, default=by_xla)


def _fused_forward(x: Any, kernel: Any, bias: Any, stride: int, precision: jax.lax.Precision) -> tuple[Any, Any]:
    y = _fused(x.value, kernel.value, bias.value, stride, precision)
    perturbed = True if x.perturbed else None  # None is not a leaf: it stays a constant of the program
    return y, (x.value, kernel.value, y, perturbed)


def _fused_backward(
    stride: int, precision: jax.lax.Precision, residuals: Any, gradient: Any
) -> tuple[Array | None, ...]:
    x, kernel, y, perturbed = residuals
    if isinstance(gradient, SymbolicZero):
        return None, None, None
    needs_x = perturbed is not None
    # convolution.cc computes all three gradients of these shapes, elsewhere those of kernel and bias.
    all_by_kernel = needs_x and kernel.shape[0] == 3 and stride == 1 and x.shape[-1] % _FILTERS == 0

    def x_gradient(x: Array, kernel: Array, masked: Array) -> tuple[Array, ...]:
        return jax.vjp(lambda x: correlate(x, kernel, stride, precision), x)[1](masked) if needs_x else ()

    def on_cpu(x: Array, kernel: Array, y: Array, gradient: Array) -> tuple[Array, ...]:
        shapes = [jax.ShapeDtypeStruct(shape, kernel.dtype) for shape in (kernel.shape, y.shape[-1:], x.shape)]
        if all_by_kernel:
            return tuple(_call(GRADIENTS_WITH_X, shapes, stride, x, kernel, y, gradient))
        rest = x_gradient(x, kernel, _bias_relu_backward(y, gradient)[0])
        return *_call(GRADIENTS, shapes[:2], stride, x, kernel, y, gradient), *rest

    def by_xla(x: Array, kernel: Array, y: Array, gradient: Array) -> tuple[Array, ...]:
        masked, bias_gradient = _bias_relu_backward(y, gradient)
        kernel_gradient = jax.vjp(lambda kernel: correlate(x, kernel, stride, precision), kernel)[1](masked)[0]
        return kernel_gradient, bias_gradient, *x_gradient(x, kernel, masked)

    kernel_gradient, bias_gradient, *rest = platform_dependent(x, kernel, y, gradient, cpu=on_cpu, default=by_xla)
    return (rest[0] if rest else None), kernel_gradient, bias_gradient


_fused.defvjp(_fused_forward, _fused_backward, symbolic_zeros=True)


def _call(target: str, shapes: Any, stride: int, *operands: Array) -> Any:
    return jax.ffi.ffi_call(target, shapes, vmap_method="sequential")(*operands, stride=stride)
