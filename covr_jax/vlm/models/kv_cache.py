"""Keys and values of a batch of answers, in memory that is allocated once for their whole length.

The dynamic cache of transformers copies all of it at every token; its static cache keeps the memory but lets each token
attend to the unfilled rest under a mask. Here the rows all have one known length: attention gets the filled part as a
view, with neither copy nor mask. On a CPU and at the tiny model's size all three take the same time (within 5%).
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer


class _Layer(DynamicLayer):
    """One layer: blocks [N,heads,length,d], of which ``keys`` and ``values`` are the filled part."""

    def __init__(self, length: int):
        super().__init__()
        self.length = length
        self.blocks: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key_states, value_states, *args, **kwargs):
        if self.blocks is None:
            self.lazy_initialization(key_states, value_states)
            n, heads, _, width = key_states.shape
            key_block = key_states.new_empty(n, heads, self.length, width)
            self.blocks = key_block, torch.empty_like(key_block)
        start = self.get_seq_length()
        end = start + key_states.shape[-2]
        if end > self.length:
            raise ValueError(f"the cache holds {self.length} tokens, {end} were written")
        for block, new in zip(self.blocks, (key_states, value_states), strict=True):
            block[:, :, start:end] = new
        self.keys, self.values = (block[:, :, :end] for block in self.blocks)
        return self.keys, self.values


def static_cache(model_config, length: int) -> Cache:
    """An empty cache for ``length`` tokens per row; memory is taken at the first forward pass, on its device."""
    layers = model_config.get_text_config().num_hidden_layers
    return Cache(layers=[_Layer(length) for _ in range(layers)])
