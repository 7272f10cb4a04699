"""Images with a lamp at a known position. B batch, H W image, C channels."""

from __future__ import annotations

import numpy as np

from tests.support.compositions import SIZE, B


def lamp_images(g: np.random.Generator, lamp: np.ndarray, depth: int) -> np.ndarray:
    """Returns stacks of equal frames u8[B,H,W,C] with a lamp of 5x4 pixels.

    Args:
      g: random generator.
      lamp: i64[B], position of the lamp: -1 left, 1 right, 0 in the middle, 2 no lamp.
      depth: C.
    """
    frame = g.integers(0, 30, (B, SIZE, SIZE, 3), dtype=np.uint8)
    for image, position, row in zip(frame, lamp, g.integers(2, 6, B), strict=True):
        if position != 2:
            column = 4 + 3 * position
            image[row : row + 5, column : column + 4] = 255
    return np.tile(frame, depth // 3)
