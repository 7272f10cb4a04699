"""Qwen2.5-VL's tokenizer with its real 151,643 BPE ranks, which the package ``dashscope`` ships as a resource."""

from __future__ import annotations

import base64
import importlib.util
import itertools
from functools import cache
from pathlib import Path

import pytest

from covr_jax.vlm.models.tiny import CHAT_TEMPLATE

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip


def _ranks() -> dict[bytes, int]:
    spec = importlib.util.find_spec("dashscope")
    if spec is None or spec.origin is None:
        pytest.skip("the package dashscope, which ships Qwen's vocabulary, is not installed")
    lines = (Path(spec.origin).parent / "resources" / "qwen.tiktoken").read_bytes().splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def _unicode_of_bytes() -> dict[int, str]:
    """The printable characters with which byte-level BPE writes bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def _pair(token: bytes, rank: int, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts out of which BPE makes a token: what merges of lower rank make of its bytes."""
    parts = [bytes([byte]) for byte in token]
    while len(parts) > 2:
        merged = [ranks.get(a + b, rank) for a, b in itertools.pairwise(parts)]
        at = min(range(len(merged)), key=merged.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return parts


@cache
def qwen_tokenizer():
    """Returns the tokenizer, with the chat template of the tiny model. Skips the test where ``dashscope`` is absent."""
    from transformers import Qwen2Tokenizer

    ranks = _ranks()
    names = _unicode_of_bytes()

    def text(token: bytes) -> str:
        return "".join(names[byte] for byte in token)

    vocabulary = {text(token): rank for token, rank in ranks.items()}
    merges = [tuple(map(text, _pair(token, rank, ranks))) for token, rank in ranks.items() if len(token) > 1]
    end = "<|endoftext|>"
    tokenizer = Qwen2Tokenizer(vocab=vocabulary, merges=merges, eos_token=end, pad_token=end, unk_token=None)
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIALS[1:])})
    tokenizer.eos_token = "<|im_end|>"
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer
