"""A Qwen2.5-VL that fits in a few megabytes: the real transformers class, grown locally from a seed.

It exists so that the whole COVR loop runs and is tested offline on a CPU. The shipped weights have learnt to see (they
read joint angles off rendered scenes, see experiments/build_tiny_vlm.py) and have never been shown an action.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from covr_jax.vlm.prompts import TASKS, split_task

ASSET = Path(__file__).parent / "assets" / "tiny_qwen2_5_vl.safetensors"
IMAGE_SIZE = 84  # 6 x 6 patches of 14 pixels, merged 2 x 2: nine image tokens
# Below this the linear layers' outputs are so small at this width that the model stays blind (measured: 0.02 never
# takes off, 0.08 does after some hundred steps).
INIT_STD = 0.08
SPECIALS = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
# Fixed pieces of an answer are single tokens, so that nearly every answer token carries information.
PIECES = ("Action: [", "Pose: [", ", ", "]")
# Positions only: the merged 2.5-VL layout in the fewest tokens. The image comes first, as in Qwen's own template.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


class TinyAssetError(RuntimeError):
    """The shipped tiny weights are missing or are not the recorded ones."""


def vocabulary() -> dict[str, int]:
    """Token -> id: specials, answer pieces, signs, digits, and the words of the nine tasks."""
    words = dict.fromkeys(word for task in TASKS for word in split_task(task))
    tokens = [*SPECIALS, *PIECES, "+", "-", ".", *"0123456789", "pose", "question", *words]
    return {token: i for i, token in enumerate(tokens)}


def tiny_tokenizer():
    """A word-and-symbol tokenizer with Qwen's special tokens; unknown text becomes ``<unk>``."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"[A-Za-z_]+|."), "isolated"),
        ]
    )
    core.decoder = decoders.Fuse()
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIALS])
    core.add_tokens([AddedToken(s, normalized=False) for s in PIECES])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="<|im_end|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(tokenizer=None):
    """The Qwen2.5-VL configuration of the tiny model; token ids are read from the tokenizer."""
    from transformers import Qwen2_5_VLConfig

    tokenizer = tokenizer or tiny_tokenizer()
    token_id = tokenizer.convert_tokens_to_ids
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 512,
            "initializer_range": INIT_STD,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]},
            "bos_token_id": None,
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<pad>"),
        },
        vision_config={
            "depth": 2,
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_heads": 4,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "window_size": 112,
            "out_hidden_size": 128,
            "fullatt_block_indexes": [1],
            "initializer_range": INIT_STD,
        },
        image_token_id=token_id("<|image_pad|>"),
        # The tiny model knows no video; an id outside the vocabulary can never occur in a prompt.
        video_token_id=len(tokenizer),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        initializer_range=INIT_STD,
        tie_word_embeddings=True,
    )


def build_tiny(seed: int = 0):
    """(model f32, tokenizer) with random weights made from the seed; Torch's global generator is left alone."""
    import torch
    from transformers import Qwen2_5_VLForConditionalGeneration

    tokenizer = tiny_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(tiny_config(tokenizer)).float().eval()
    return model, tokenizer


def load_tiny(path: Path | str | None = None):
    """(model f32, tokenizer) with the shipped weights, checked against the sha256 in the JSON record beside them.

    Raises:
      TinyAssetError: if the weights or their record are missing, or the digest differs.
    """
    path = Path(path or ASSET)
    record = path.with_suffix(".json")
    if not path.is_file() or not record.is_file():
        raise TinyAssetError(f"{path.name} or its record is missing; rebuild with experiments/build_tiny_vlm.py")
    content = path.read_bytes()
    try:
        expected = json.loads(record.read_text())["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise TinyAssetError(f"{record.name} is no valid record; rebuild with experiments/build_tiny_vlm.py") from error
    if hashlib.sha256(content).hexdigest() != expected:
        raise TinyAssetError(f"{path.name} does not match its recorded sha256; restore it or rebuild it")
    from safetensors.torch import load

    model, tokenizer = build_tiny()
    tensors = load(content)
    missing, unexpected = model.load_state_dict(tensors, strict=False)
    # Tied output weights are stored once.
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise TinyAssetError(f"{path.name} was made for another tiny architecture; rebuild it")
    model.tie_weights()
    return model, tokenizer
