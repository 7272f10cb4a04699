"""A cache for the keys and values of a batch of answers, allocated once for their whole length.

The dynamic cache of transformers copies all keys and values at every token; its static cache does not, but lets each
token attend to the unfilled part under a mask. Here all rows have the same known length, so that attention reads the
filled part as a view, without copy or mask. On a CPU and with the tiny model all three take the same time (within 5%).
Layers of linear attention keep a state whose size does not depend on the length; for them transformers' own layer does.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer, LinearAttentionLayer

LINEAR = "linear_attention"  # in ``layer_types`` of a configuration


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
    kinds = _layer_types(model_config.get_text_config())
    return Cache(layers=[LinearAttentionLayer() if kind == LINEAR else _Layer(length) for kind in kinds])


def cache_bytes(model_config, length: int, itemsize: int) -> int:
    """Returns the bytes of one row of ``static_cache``.

    Args:
      model_config: of transformers.
      length: tokens of the row.
      itemsize: bytes of an element of the model's dtype.
    """
    text = model_config.get_text_config()
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    linear = _layer_types(text).count(LINEAR)
    total = (text.num_hidden_layers - linear) * 2 * length * text.num_key_value_heads * width * itemsize
    if linear:
        keys, values = linear_widths(text)
        convolution = (2 * keys + values) * text.linear_conv_kernel_dim * itemsize
        total += linear * (convolution + 4 * values * text.linear_key_head_dim)  # the state is float32
    return total


def linear_widths(text: Any) -> tuple[int, int]:
    """Returns the widths of keys (and queries) and of values in layers of linear attention; 0, 0 without such layers.

    Args:
      text: configuration of a language model.
    """
    if LINEAR not in _layer_types(text):
        return 0, 0
    keys = text.linear_num_key_heads * text.linear_key_head_dim
    return keys, text.linear_num_value_heads * text.linear_value_head_dim


def _layer_types(text: Any) -> list[str]:
    """The kind of attention of each layer; configurations name them where there are several."""
    return list(getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers)
