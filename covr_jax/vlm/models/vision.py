"""Vision attention for batches of equal images: one call instead of one per image and window.

The upstream tower, without the flash kernels, cuts the batch into windows and attends to them one after the other:
thousands of small launches for 64 images. Windows of equal length are simply another batch dimension.
"""

from __future__ import annotations

import torch

# The tower hands over whole sequences with their window lengths only to implementations that have "flash" in the name.
NAME = "covr_flash_equal_windows"


def equal_windows(module, query, key, value, attention_mask=None, *, scaling, cu_seq_lens_q, max_length_q, **_):
    """softmax(q k^T) v inside each window.

    Args:
      query, key, value: [1,heads,L,d]; windows lie behind one another along L.
      cu_seq_lens_q: i32[windows+1] where each window starts; max_length_q: the longest one.

    Returns:
      ([1,L,heads,d], None), as transformers expects.
    """
    heads, total, width = query.shape[1:]
    count = cu_seq_lens_q.numel() - 1
    attend = torch.nn.functional.scaled_dot_product_attention
    if total == count * max_length_q:
        # [windows, heads, window, d]
        q, k, v = (x[0].reshape(heads, count, -1, width).transpose(0, 1) for x in (query, key, value))
        out = attend(q, k, v, scale=scaling).transpose(1, 2).reshape(1, total, heads, width)
        return out, None
    cuts = cu_seq_lens_q.diff().tolist()
    parts = zip(*(torch.split(x, cuts, dim=2) for x in (query, key, value)), strict=True)
    return torch.cat([attend(q, k, v, scale=scaling) for q, k, v in parts], dim=2).transpose(1, 2), None


def use_equal_windows(model) -> None:
    """Switches the vision tower of a Qwen2.5-VL to ``equal_windows``; the language model keeps its attention."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, equal_windows)
    model.model.visual.config._attn_implementation = NAME
