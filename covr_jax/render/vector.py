"""Vectors as tuples of three blocks, and the choice of a constant per pixel.

A block is a float, or an array of any shape. There is no trailing axis of 3: scalars stay scalars and per-pixel values
are contiguous, so XLA makes one fused, vectorised kernel on every backend.
"""

# pyright: reportReturnType=false
# Vectors are tuples built by comprehension, whose length the checker cannot see.
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

Floats = tuple[float, ...]
Block = Float[Array | np.ndarray, " ..."] | float | np.floating
Vec = tuple[Block, Block, Block]
Index = Int[Array | np.ndarray, " ..."] | int | np.integer


def dot(a: Vec, b: Vec) -> Block:
    """Inner product."""
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def add(a: Vec, b: Vec) -> Vec:
    """Sum."""
    return a[0] + b[0], a[1] + b[1], a[2] + b[2]


def sub(a: Vec, b: Vec) -> Vec:
    """Difference."""
    return a[0] - b[0], a[1] - b[1], a[2] - b[2]


def scale(s: Block, a: Vec) -> Vec:
    """Multiple of a vector."""
    return s * a[0], s * a[1], s * a[2]


def cross(a: Vec, b: Vec) -> Vec:
    """Vector product."""
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


def unit(a: Vec) -> Vec:
    """Scales to length 1; the zero vector stays zero."""
    return scale(jax.lax.rsqrt(jnp.maximum(dot(a, a), 1e-20)), a)


def vec(row: Float[Array | np.ndarray, " 3 *shape"]) -> Vec:
    """Splits an array into the three components along its first axis."""
    return row[0], row[1], row[2]


def pick(index: Index, choices: Mapping[int, Any]) -> Any:
    """Chooses a value per pixel.

    Args:
      index: item index of each pixel.
      choices: value of each item: floats, or blocks that broadcast against `index`.

    Returns:
      The values, shaped like `index`; the value itself where all choices are the same number or object. Undefined where
      `index` is not in `choices`.
    """
    groups: dict[Any, tuple[Any, list[int]]] = {}
    for item, value in choices.items():
        groups.setdefault(value if isinstance(value, (int, float)) else id(value), (value, []))[1].append(item)
    (picked, _), *others = groups.values()
    for value, items in others:
        chosen = index == items[0]
        for item in items[1:]:
            chosen = chosen | (index == item)
        picked = jnp.where(chosen, value, picked)
    return picked


def pick_vec(index: Index, choices: Mapping[int, Sequence[Any]]) -> Vec:
    """Applies `pick` to each of the three components."""
    return tuple(pick(index, {item: value[k] for item, value in choices.items()}) for k in range(3))
