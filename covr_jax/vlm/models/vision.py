"""Vision attention for batches of images of one size: one call instead of one per image and window.

The vision tower of transformers, without flash attention, splits the batch into windows and processes them one by one:
thousands of small launches for 64 images. Here windows of equal length are another batch dimension.
"""

from __future__ import annotations

import torch

# The tower passes whole sequences and their window lengths only to implementations with "flash" in the name.
NAME = "covr_flash_equal_windows"


def equal_windows(module, query, key, value, attention_mask=None, *, scaling, cu_seq_lens_q, max_length_q, **_):
    """Computes softmax(q k^T) v inside each window.

    Args:
      module: not used.
      query: [1,heads,L,d]; windows are adjacent along L.
      key: [1,heads,L,d].
      value: [1,heads,L,d].
      attention_mask: not used.
      scaling: factor of q k^T.
      cu_seq_lens_q: i32[windows+1], start of each window, and L.
      max_length_q: length of the longest window.

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
    lengths = cu_seq_lens_q.diff().tolist()
    parts = zip(*(torch.split(x, lengths, dim=2) for x in (query, key, value)), strict=True)
    return torch.cat([attend(q, k, v, scale=scaling) for q, k, v in parts], dim=2).transpose(1, 2), None


def use_equal_windows(model) -> None:
    """Sets the attention of the vision tower of a Qwen-VL to ``equal_windows``; the language model keeps its own."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, equal_windows)
    model.model.visual.config._attn_implementation = NAME
