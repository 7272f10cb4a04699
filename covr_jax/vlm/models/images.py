"""Frames into what a vision encoder takes, on the frames' own device: batched, without PIL and without the host.

Letters: N samples, F pictures per sample, oldest first, H W image, P patches per picture.
"""

from __future__ import annotations

from typing import NamedTuple

import torch

# All our vision encoders were trained on images normalised with CLIP's statistics.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageSettings(NamedTuple):
    """How frames become patches; everything but ``size`` is read from the model's own configuration."""

    size: int  # side in pixels after resizing, a multiple of patch * merge
    patch: int
    merge: int
    temporal: int
    patches: bool = True  # the model takes flat patches; False: whole pictures [N,3,size,size]
    frames: int = 1  # F

    @property
    def tokens(self) -> int:
        """Image tokens that the language model sees per picture."""
        return (self.size // (self.patch * self.merge)) ** 2

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches of a picture in time, height and width."""
        return (1, self.size // self.patch, self.size // self.patch)


def preprocess(frames: torch.Tensor, image: ImageSettings) -> torch.Tensor:
    """u8[N,H,W,3F] -> what the upstream image processor gives for N*F pictures, on the frames' device.

    That is f32[N*F*P, 3*temporal*patch*patch] for models that take patches, f32[N*F,3,size,size] for the others. Frames
    of another size are resized to ``image.size`` squared; the aspect ratio is not kept.

    Raises:
      ValueError: for frames of another kind.
    """
    channels = 3 * image.frames
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != channels:
        raise ValueError(f"frames must be uint8 [N,H,W,{channels}], got {frames.dtype} {tuple(frames.shape)}")
    pictures = frames.unflatten(-1, (image.frames, 3)).permute(0, 3, 4, 1, 2).flatten(0, 1)
    x = resize(pictures.float(), image.size)
    mean = torch.tensor(CLIP_MEAN, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD, device=x.device).view(1, 3, 1, 1)
    x = (x / 255.0 - mean) / std
    if not image.patches:
        return x
    n, m, p = x.shape[0], image.merge, image.patch
    g = image.size // (p * m)
    # Patches that the merger joins are neighbours in the sequence: [N, g, g, m, m, C, p, p].
    x = x.reshape(n, 3, g, m, p, g, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(*x.shape[:6], image.temporal, p, p)
    return x.reshape(n * (g * m) ** 2, 3 * image.temporal * p * p)


def resize(x: torch.Tensor, side: int) -> torch.Tensor:
    """f32[N,C,H,W] of whole numbers -> f32[N,C,side,side], bicubic with antialiasing, as Pillow does it upstream.

    Rows first, then columns, each rounded and cut to 8 bits: in one go, edges come out up to 24 levels off.
    """
    for size in ((x.shape[-2], side), (side, side)):
        if x.shape[-2:] != size:
            x = torch.nn.functional.interpolate(x, size, mode="bicubic", align_corners=False, antialias=True)
            x = (x + 0.5).floor().clamp(0.0, 255.0)
    return x
