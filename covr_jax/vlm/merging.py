"""Merges the adapter of a model into its weights to answer, and takes it out again to be trained; both in place.

Merged, an adapted layer is one matrix product instead of three. peft's own ``unmerge`` subtracts what ``merge`` added,
which does not give back the same weights; here they are kept in the host's memory and copied back.
"""

from __future__ import annotations

import sys
from typing import Any

import torch

from covr_jax.runtime import memory
from covr_jax.runtime.errors import one_line
from covr_jax.vlm import budget
from covr_jax.vlm.passes import out_of_memory

ADAPTER = "default"  # peft's name of the only adapter


class AdapterMerger:
    """Switches a model between a separate and a merged adapter. Not thread-safe, as the engine's calls are not.

    Args:
      model: PeftModel with one LoRA adapter, which is separate.
      required: merge without asking for the free memory, and raise where it runs out.
    """

    def __init__(self, model: Any, *, required: bool = False):
        from peft.tuners.lora import LoraLayer

        self._model, self._required = model, required
        self._embedding = model.get_input_embeddings().weight
        self._layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
        # W of each layer: a copy on the host, or the embedding itself where a layer shares its weights.
        self._originals: dict[Any, torch.Tensor] = {}

    @property
    def kept_bytes(self) -> int:
        """Bytes of weights that are kept in the host's memory."""
        return sum(original.nbytes for original in self._originals.values() if original is not self._embedding)

    @property
    def merged(self) -> bool:
        """Whether the adapter is merged."""
        return all(layer.merged for layer in self._layers)

    def merge(self) -> bool:
        """Sets the weights of each adapted layer to W + alpha / rank * B A, computed in float32 and rounded once.

        Forward passes then skip the adapter, which must not be trained or disabled. If an error is raised, the adapter
        is separate.

        Returns:
          False where memory does not hold the second set of weights: the adapter is separate, and a line is printed.
        """
        refusal = None if self._required or self._originals else self._lack_of_memory()
        try:
            if refusal is None:
                self._merge_layers()
        except RuntimeError as error:
            if self._required or not out_of_memory(error):
                raise
            refusal = one_line(error)
        if refusal is not None:
            print(f"the adapter is not merged, and answers take longer: {refusal}", file=sys.stderr)
        return refusal is None

    def _lack_of_memory(self) -> str | None:
        needed, free = budget.adapted_bytes(self._model, pinned=self._pinned), memory.free_bytes("host")
        if free is None or needed <= budget.SAFETY * free:
            return None
        return f"it needs {needed / 1e9:,.1f} GB of the host's memory, and {free / 1e9:,.1f} GB are free"

    @property
    def _pinned(self) -> bool:
        return self._model.device.type == "cuda"

    def _merge_layers(self) -> None:
        try:
            for layer in self._layers:
                if not layer.merged:
                    self._merge_layer(layer)
        except BaseException:
            self.unmerge()
            self._originals.clear()
            raise

    @torch.no_grad()
    def _merge_layer(self, layer: Any) -> None:
        base = layer.get_base_layer()
        weight = base.weight
        merged = layer.get_delta_weight(ADAPTER).add_(weight)  # float32, as the adapter is
        tied = weight is self._embedding  # the model must read the words as before
        if tied:
            self._originals[layer] = weight
        elif layer not in self._originals:
            host = torch.empty_like(weight, device="cpu", pin_memory=self._pinned)
            self._originals[layer] = host.copy_(weight)
        layer.merged_adapters.append(ADAPTER)  # peft's sign that the adapter is not to be added
        layer.forward = base.forward  # peft's own takes longer than a layer of a tiny model
        if tied:
            base.weight = torch.nn.Parameter(merged.to(weight.dtype), requires_grad=False)
        else:
            weight.copy_(merged)

    @torch.no_grad()
    def unmerge(self) -> None:
        """Puts the original weights back, bit for bit; nothing happens if the adapter is separate."""
        for layer in self._layers:
            if layer.merged:
                base, original = layer.get_base_layer(), self._originals[layer]
                if original is self._embedding:
                    base.weight = original
                else:
                    base.weight.copy_(original)
                vars(layer).pop("forward", None)  # that of the class is back
                layer.merged_adapters.clear()
        if not self._pinned:  # the weights of the CPU's models leave their memory to the fine-tuning
            self._originals.clear()
