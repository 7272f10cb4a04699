"""Area interpolation of images on the host. Letters: H W image."""

from __future__ import annotations

from functools import cache

import numpy as np
from jaxtyping import Float, UInt8


@cache
def area_weights(source: int, target: int) -> Float[np.ndarray, "{target} {source}"]:
    """Returns the share of each target pixel that each source pixel covers, in one dimension; rows sum to 1."""
    edges = np.linspace(0.0, source, target + 1)
    pixels = np.arange(source)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0.0) * target / source).astype(np.float32)


def resize_area(image: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "{size} {size} 3"]:
    """Resizes an image by area interpolation; an image of the wanted size is returned as it is, without a copy."""
    height, width, channels = image.shape
    if (height, width) == (size, size):
        return image
    rows = area_weights(height, size) @ image.reshape(height, -1).astype(np.float32)
    columns = rows.reshape(size, width, channels).transpose(1, 0, 2).reshape(width, -1)
    resized = (area_weights(width, size) @ columns).reshape(size, size, channels).transpose(1, 0, 2)
    return np.rint(resized).astype(np.uint8)
