"""Area interpolation of pictures on the host."""

from __future__ import annotations

from functools import cache

import numpy as np


@cache
def area_weights(source: int, target: int) -> np.ndarray:
    """f32[target,source]: which share of a target pixel each source pixel covers, in one dimension; rows sum to 1."""
    edges = np.linspace(0.0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0.0) * target / source).astype(np.float32)


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """u8[H,W,3] -> u8[size,size,3]; a picture of that size is returned as it is."""
    height, width, channels = picture.shape
    if (height, width) == (size, size):
        return picture
    rows = area_weights(height, size) @ picture.reshape(height, -1).astype(np.float32)
    columns = rows.reshape(size, width, channels).transpose(1, 0, 2).reshape(width, -1)
    fitted = (area_weights(width, size) @ columns).reshape(size, size, channels).transpose(1, 0, 2)
    return np.rint(fitted).astype(np.uint8)
