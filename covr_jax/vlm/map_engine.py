"""The engine of methods that use maps: CLIP finds where in a frame the captions of the task apply.

DGC queries a referring-segmentation model (CRIS, built on CLIP) with a text that another VLM writes for the frames;
here CLIP itself is queried, with captions that are fixed per task.
N frames, H W image, P patches per side, G cells per side, D width of CLIP's shared space, T texts.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from covr_jax.runtime import dlpack
from covr_jax.types import Prior
from covr_jax.vlm.models.clip import Clip, load_clip, patch_features, text_features
from covr_jax.vlm.models.images import preprocess
from covr_jax.vlm.models.loading import ParameterCount
from covr_jax.vlm.models.pretrained import VLMLoadError, placement, share_gpu
from covr_jax.vlm.prompts import Prompt, categories_for
from covr_jax.vlm.serving.protocol import PriorError, Report, fresh_counters

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Actions, Frames, Weights

RECORD = "maps.json"
MIN_RANGE = 1e-4  # of the cosines of a frame; below it, scaling to [0, 1] would only amplify rounding errors


def similarity(clip: Clip, frames: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Computes the cosine similarity of every patch and every text, and returns its mean over texts, f32[N,P,P].

    Args:
      clip: model.
      frames: u8[N,H,W,3].
      texts: f32[T,D], unit vectors.
    """
    pixels = preprocess(frames.to(clip.model.device), clip.image)
    return (patch_features(clip, pixels) @ texts.T).mean(-1)


def to_cells(similar: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Averages patches to maps of G x G cells and scales each map to [0, 1].

    CLIP's cosines are close together around a value that depends on the text, so only their order within a frame
    carries information.

    Args:
      similar: f32[N,P,P]. Every patch counts; some count twice if P is not a multiple of G.
      side: G.

    Returns:
      maps f32[N,G*G] (zeros where not valid) and valid bool[N], False where all cells are nearly equal.
    """
    cells = torch.nn.functional.adaptive_avg_pool2d(similar[:, None], side).flatten(1)
    low, high = cells.min(1, keepdim=True).values, cells.max(1, keepdim=True).values
    valid = ((high - low) > MIN_RANGE)[:, 0]  # also False for NaN
    scaled = (cells - low) / (high - low)
    return torch.where(valid[:, None], scaled, 0.0), valid


class MapVLM:
    """Answers frames with maps; see ``protocol.Engine``. It is never fine-tuned.

    Args:
      name: 'tiny', a local directory or a hub id of CLIP.
      task: one of ``prompts.TASKS``; chooses the captions.
      answer_dim: number of cells of a map, G*G.
      image_size: None, or the model's own.
      dtype: see ``pretrained.placement``.
      device: see ``pretrained.placement``.
      gpu_share: share of the GPU's memory that Torch may use in this process; None: all.
      query_batch: largest batch of one forward pass.

    Raises:
      VLMLoadError: if the model cannot be loaded; one line that says what to do.
      ValueError: for an unknown task, a number of cells that is not a square or an image size other than the model's.
    """

    def __init__(
        self,
        name: str,
        task: str,
        answer_dim: int,
        *,
        image_size: int | None = None,
        dtype: Any = "auto",
        device: Any = "cpu",
        gpu_share: float | None = None,
        query_batch: int = 64,
    ):
        self.name, self.task, self.query_batch = name, task, query_batch
        self.side = math.isqrt(answer_dim)
        if self.side < 1 or self.side**2 != answer_dim:
            raise ValueError(f"a map has a square number of cells, not {answer_dim}")
        self.texts = categories_for(task)
        self.prompt = Prompt("", "; ".join(self.texts))
        share_gpu(gpu_share, device)
        place = placement(device, dtype, is_tiny=name == "tiny")
        self.clip = load_clip(name, *place, image_size)
        self._text_features = text_features(self.clip, self.texts)
        self.counters = fresh_counters()
        self.working: Callable[[], None] | None = None

    @property
    def parameter_count(self) -> ParameterCount:
        """Numbers of trainable (0) and of all parameters."""
        return ParameterCount(0, sum(p.numel() for p in self.clip.model.parameters()))

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights in memory."""
        return sum(p.numel() * p.element_size() for p in self.clip.model.parameters())

    def query(self, frames: Frames) -> Prior:
        """Returns maps f32[N,G*G] in [0, 1] (zeros where not valid) and valid bool[N] of N frames, as JAX arrays."""
        started = time.perf_counter()
        chunks = torch.split(dlpack.to_torch(frames), self.query_batch)
        answers = [to_cells(similarity(self.clip, chunk, self._text_features), self.side) for chunk in chunks]
        maps, valid = (torch.cat(parts) for parts in zip(*answers, strict=True))
        prior = Prior(dlpack.to_jax(maps), dlpack.to_jax(valid))
        self.counters["latency_s"] = time.perf_counter() - started
        self.counters["query_s"] += self.counters["latency_s"]
        self.counters["queries"] += 1
        self.counters["frames"] += len(valid)
        self.counters["parse_failures"] += int((~valid).sum())
        return prior

    def answer(self, frames: Frames) -> list[str]:
        """Returns the captions, the same for every frame."""
        return [self.prompt.user] * len(frames)

    def finetune(
        self, frames: Frames, actions: Actions, weights: Weights, progress: Report | None = None
    ) -> dict[str, Any]:
        """Raises PriorError: this engine is not fine-tuned."""
        del frames, actions, weights, progress
        raise PriorError("a VLM that answers with maps is not tuned")

    def disable_adapter(self) -> contextlib.AbstractContextManager[Any]:
        """Context without any effect: there is no adapter."""
        return contextlib.nullcontext(self)

    def _record(self) -> dict[str, Any]:
        return {"name": self.name, "texts": list(self.texts), "side": self.side}

    def save_adapter(self, directory: Path) -> None:
        """Writes the name of the model and its captions; there are no weights to save."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / RECORD).write_text(json.dumps(self._record()))

    def load_adapter(self, directory: Path) -> None:
        """Raises VLMLoadError if ``save_adapter`` was called with another model or other captions."""
        path = Path(directory) / RECORD
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise VLMLoadError(f"cannot read {path}: {error}") from error
        if found != self._record():
            raise VLMLoadError(f"{path} is of another model or other texts")
