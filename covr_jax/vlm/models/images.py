"""Converts frames to inputs of a vision encoder, batched and on the device of the frames, without PIL.

N samples, F frames per sample (oldest first), H W image, P patches per frame.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from covr_jax.vlm.models.backbones import CLIP_STATISTICS, Statistics


class ImageSettings(NamedTuple):
    """Settings of the preprocessing; sizes of patches and merging are read from the model's configuration."""

    size: int  # side in pixels after resizing, a multiple of patch * merge
    patch: int  # side of a patch, pixels
    merge: int  # patches per side that become one image token
    temporal: int  # frames per patch; an image is repeated as often
    patches: bool = True  # the model takes flattened patches; False: images [N,3,size,size]
    frames: int = 1  # F
    statistics: Statistics = CLIP_STATISTICS

    @property
    def tokens(self) -> int:
        """Number of image tokens per frame in the language model."""
        return (self.size // (self.patch * self.merge)) ** 2

    @property
    def grid(self) -> tuple[int, int, int]:
        """Numbers of patches per frame along time, height and width."""
        return (1, self.size // self.patch, self.size // self.patch)


def preprocess(frames: torch.Tensor, image: ImageSettings) -> torch.Tensor:
    """Returns what the image processor of transformers returns for N*F images, on the device of the frames.

    Frames of another size are resized to ``image.size`` squared; the aspect ratio is not kept.

    Args:
      frames: u8[N,H,W,3F].
      image: settings.

    Returns:
      f32[N*F*P, 3*temporal*patch*patch] for models that take patches, f32[N*F,3,size,size] for the others.

    Raises:
      ValueError: for another dtype or shape.
    """
    channels = 3 * image.frames
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != channels:
        raise ValueError(f"frames must be uint8 [N,H,W,{channels}], got {frames.dtype} {tuple(frames.shape)}")
    images = frames.unflatten(-1, (image.frames, 3)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    x = resize(images.float(), image.size)
    mean, std = (torch.tensor(values, device=x.device).view(1, 3, 1, 1) for values in image.statistics)
    x = (x / 255.0 - mean) / std
    if not image.patches:
        return x
    n, m, p = x.shape[0], image.merge, image.patch
    g = image.size // (p * m)
    # Patches that are merged are adjacent in the sequence: [N, g, g, m, m, C, p, p].
    x = x.reshape(n, 3, g, m, p, g, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(*x.shape[:6], image.temporal, p, p)
    return x.reshape(n * (g * m) ** 2, 3 * image.temporal * p * p)


def resize(x: torch.Tensor, side: int) -> torch.Tensor:
    """Resizes images to squares, bicubic with antialiasing, as Pillow does.

    Rows first, then columns, each rounded and clipped to 8 bits: in one pass, edges would be up to 24 levels off.

    Args:
      x: f32[N,C,H,W], integers in [0, 255].
      side: height = width of the result, pixels.

    Returns:
      f32[N,C,side,side], integers in [0, 255].
    """
    for size in ((x.shape[-2], side), (side, side)):
        if x.shape[-2:] != size:
            x = torch.nn.functional.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
            x = (x + 0.5).floor().clamp(0.0, 255.0)
    return x
