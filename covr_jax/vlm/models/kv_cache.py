"""A cache for the keys and values of a batch of answers, allocated once for their whole length.

The dynamic cache of transformers copies all keys and values at every token; its static cache does not, but lets each
token attend to the unfilled part under a mask. Here all rows have the same known length, so that attention reads the
filled part as a view, without copy or mask. On a CPU and with the tiny model all three take the same time (within 5%).
"""

from __future__ import annotations

import torch
from transformers.cache_utils import Cache, DynamicLayer


class _Layer(DynamicLayer):
    """One layer: blocks [N,heads,length,d]; ``keys`` and ``values`` are views of their filled part."""

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
    """Returns an empty cache for ``length`` tokens per row; memory is allocated in the first forward pass."""
    layers = model_config.get_text_config().num_hidden_layers
    return Cache(layers=[_Layer(length) for _ in range(layers)])
