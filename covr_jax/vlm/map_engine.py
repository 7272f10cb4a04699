"""The engine of methods that read maps: where CLIP sees in a frame what the task's texts name.

DGC asks a referring-segmentation model (CRIS, built on CLIP) about a text that another VLM writes for the frames; here
CLIP itself is asked, about texts that are fixed per task. Letters: N frames, H W image, P patches per side, G cells.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from pathlib import Path
from typing import Any

import torch

from covr_jax.runtime import dlpack
from covr_jax.types import Array, Prior
from covr_jax.vlm.models.clip import Clip, load_clip, patch_features, text_features
from covr_jax.vlm.models.images import preprocess
from covr_jax.vlm.models.loading import ParameterCount
from covr_jax.vlm.models.pretrained import VLMLoadError, placement, share_gpu
from covr_jax.vlm.prompts import Prompt, categories_for
from covr_jax.vlm.serving.protocol import PriorError, Report, fresh_counters

RECORD = "maps.json"
FLATTEST = 1e-4  # cosine range below which nothing stands out and rounding would be stretched to a map


def similarity(clip: Clip, frames: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
    """Cosine of every patch of u8[N,H,W,3] and every text, unit vectors f32[T,D], mean over the texts: f32[N,P,P]."""
    pixels = preprocess(frames.to(clip.model.device), clip.image)
    return (patch_features(clip, pixels) @ texts.T).mean(-1)


def to_cells(similar: torch.Tensor, side: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps of side x side cells, each frame's own smallest cell 0 and its largest 1.

    CLIP's cosines lie close together around a value that depends on the text; only their order within a frame tells.

    Args:
      similar: f32[N,P,P]. Cells are means over patches (adaptive: every patch counts, some twice if P is no multiple).

    Returns:
      f32[N,side*side], zeros where not valid, and bool[N]: whether anything stands out.
    """
    cells = torch.nn.functional.adaptive_avg_pool2d(similar[:, None], side).flatten(1)
    low, high = cells.min(1, keepdim=True).values, cells.max(1, keepdim=True).values
    valid = ((high - low) > FLATTEST)[:, 0]  # not of NaN either
    scaled = (cells - low) / (high - low)
    return torch.where(valid[:, None], scaled, 0.0), valid


class MapVLM:
    """Answers frames with maps; see ``protocol.Engine``. It is never tuned.

    Args:
      name: 'tiny', a local directory or a hub id of CLIP.
      task: one of ``prompts.TASKS``; chooses the texts.
      answer_dim: cells of a map, a square.
      image_size: None, or the model's own. dtype, device: see ``pretrained.placement``.
      gpu_share: of a GPU's memory that Torch may take in this process; None: all.
      query_batch: most frames of one forward pass.

    Raises:
      VLMLoadError: if the model cannot be loaded; one line that says what to do.
      ValueError: for an unknown task, a map that is no square or an image size that the model does not know.
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

    @property
    def parameter_count(self) -> ParameterCount:
        """None of them is trained."""
        return ParameterCount(0, sum(p.numel() for p in self.clip.model.parameters()))

    @property
    def memory_bytes(self) -> int:
        """Bytes of all weights held."""
        return sum(p.numel() * p.element_size() for p in self.clip.model.parameters())

    def query(self, frames: Array) -> Prior:
        """Maps f32[N,G*G] in [0, 1] (zeros where not valid) and valid bool[N] of u8[N,H,W,3], as jax arrays."""
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

    def answer(self, frames: Array) -> list[str]:
        """What is looked for, per frame."""
        return [self.prompt.user] * len(frames)

    def finetune(self, frames: Array, actions: Array, weights: Array, progress: Report | None = None) -> dict[str, Any]:
        """Raises PriorError: there are no rounds."""
        del frames, actions, weights, progress
        raise PriorError("a VLM that answers with maps is not tuned")

    def disable_adapter(self) -> contextlib.AbstractContextManager[Any]:
        """Nothing to disable."""
        return contextlib.nullcontext(self)

    def _record(self) -> dict[str, Any]:
        return {"name": self.name, "texts": list(self.texts), "side": self.side}

    def save_adapter(self, directory: Path) -> None:
        """Writes who answers; there are no weights of one's own."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        (Path(directory) / RECORD).write_text(json.dumps(self._record()))

    def load_adapter(self, directory: Path) -> None:
        """Raises VLMLoadError unless the same model was asked the same."""
        path = Path(directory) / RECORD
        try:
            found = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise VLMLoadError(f"cannot read {path}: {error}") from error
        if found != self._record():
            raise VLMLoadError(f"{path} is of another model or other texts")
