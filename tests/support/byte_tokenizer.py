"""A small byte-level BPE tokenizer as Qwen's."""

from __future__ import annotations

from collections.abc import Sequence


def byte_tokenizer(merges: Sequence[tuple[str, str]] = (), specials: Sequence[str] = ()):
    """Returns a tokenizer without whole-answer pieces, with the given merges and special tokens; digits stay apart."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {character: i for i, character in enumerate(alphabet)}
    for a, b in merges:
        vocabulary[a + b] = len(vocabulary)
    core = Tokenizer(models.BPE(vocabulary, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core)
    tokenizer.add_special_tokens({"eos_token": "<|im_end|>", "pad_token": "<|pad|>"})
    tokenizer.add_special_tokens({"additional_special_tokens": list(specials)})
    return tokenizer
