"""How a batch of fine-tuning passes through the model: in how many parts, and with activations kept or recomputed."""

from __future__ import annotations

import gc
from typing import TYPE_CHECKING, Any

import torch

from covr_jax.vlm import budget
from covr_jax.vlm.models.loading import Backbone, PromptTokens, base_model

if TYPE_CHECKING:
    from covr_jax.vlm.trainer import FinetuneOptions


def plan_passes(
    backbone: Backbone, prompt: PromptTokens, labels: torch.Tensor | None, options: FinetuneOptions
) -> budget.Plan:
    """Returns the samples per pass and whether activations are recomputed: as given, or by the free memory.

    Args:
      backbone: model with an adapter.
      prompt: of every sample.
      labels: i64[N,T] of the round, or None without samples.
      options: of the round.
    """
    if options.micro_batch is not None or labels is None:
        return budget.Plan(options.micro_batch or options.batch_size, options.checkpointing)
    saved = budget.saved_bytes(backbone, prompt, labels.shape[1])
    if options.checkpointing:
        saved = budget.Saved(saved.recomputed, saved.recomputed)
    size, recompute = budget.plan(saved, budget.free_bytes(backbone.model.device), options.batch_size)
    return budget.Plan(size, recompute or options.checkpointing)


class VLMMemoryError(RuntimeError):
    """Fine-tuning does not fit into memory; the message is one line and says what to do."""


class Passes:
    """The current plan of a round, as a context that switches activation checkpointing."""

    def __init__(self, backbone: Backbone, size: int, checkpointing: bool):
        self._base, self.size, self._checkpointing = base_model(backbone.model), size, checkpointing

    def __enter__(self) -> Passes:
        if self._checkpointing:
            self._base.activation_checkpointing_enable({"use_reentrant": False})
        return self

    def __exit__(self, *_: Any) -> None:
        if self._checkpointing:
            self._base.activation_checkpointing_disable()

    def shrink(self) -> None:
        """Halves the passes; single samples get their activations recomputed.

        Raises:
          VLMMemoryError: both are done already.
        """
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self.size > 1:
            self.size = -(-self.size // 2)
        elif not self._checkpointing:
            self._checkpointing = True
            self._base.activation_checkpointing_enable({"use_reentrant": False})
        else:
            raise VLMMemoryError(
                "fine-tuning runs out of memory with one sample at a time; use a smaller model, --vlm.image-size or"
                " --vlm.lora-rank, or a larger --vlm.gpu-share"
            )


def out_of_memory(error: BaseException) -> bool:
    """Whether an error of Torch says that an allocation failed, on a GPU or on the host."""
    words = ("allocate memory", "out of memory")  # of the CPU's allocator, and of pinned memory
    return isinstance(error, torch.OutOfMemoryError) or any(part in str(error) for part in words)
