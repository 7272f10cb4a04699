"""Cube textures: mip levels, and where a direction meets the cube. Letters: n texels along an edge."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Float, Int, Shaped

from covr_jax.render.texture import halve
from covr_jax.render.vector import Block, Vec


def cube_levels(texels: Shaped[np.ndarray, "6 n n 3"]) -> list[Float[np.ndarray, "6 m m 3"]]:
    """Computes the mip levels in 0..255, each rounded to 8 bits as GL stores them."""
    levels: list[Any] = [texels.astype(np.float64)]
    while levels[-1].shape[1] > 1:
        levels.append(np.round(halve(halve(levels[-1], 1), 2)))
    return levels


def face_of(direction: Vec, xp: Any) -> Int[Any, " ..."]:
    """Face of the largest component: 0..5 is +x, -x, +y, -y, +z, -z.

    Args:
      direction: in the axes of the cube, of any length.
      xp: numpy or jax.numpy.
    """
    x, y, z = (xp.abs(c) for c in direction)
    axis = xp.where((x >= y) & (x >= z), 0, xp.where(y >= z, 1, 2))
    return 2 * axis + (_by_axis(axis, direction, xp) <= 0)


def _by_axis(axis: Any, values: tuple[Any, Any, Any], xp: Any) -> Any:
    return xp.where(axis == 0, values[0], xp.where(axis == 1, values[1], values[2]))


def on_face(v: Vec, face: Int[Any, " ..."], xp: Any) -> Vec:
    """Components of a vector along the columns, along the rows and out of a face, by the GL specification's table.

    Args:
      v: in the axes of the cube.
      face: the face.
      xp: numpy or jax.numpy.
    """
    axis, sign = face // 2, 1.0 - 2.0 * (face % 2)
    x, y, z = v
    column = _by_axis(axis, (-sign * z, x, sign * x), xp)
    return column, xp.where(axis == 1, sign * z, -y), sign * _by_axis(axis, (x, y, z), xp)


def project(direction: Vec, face: Int[Any, " ..."], xp: Any) -> tuple[Block, Block]:
    """Face coordinates u, v, in 0..1 on the face; arguments as in `on_face`."""
    column, row, out = on_face(direction, face, xp)
    return (column / out + 1) / 2, (row / out + 1) / 2
