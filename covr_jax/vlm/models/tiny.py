"""VLMs of a few megabytes: the classes of transformers at small sizes, so that COVR runs offline on a CPU.

The shipped weights of the tiny Qwen2.5-VL are trained to read joint angles from rendered scenes (see
experiments/build_tiny_vlm.py), never on actions. The other two architectures have random weights; they serve to test
the code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from covr_jax.vlm.prompts import SUITE, split_task

ASSET = Path(__file__).parents[1] / "assets" / "tiny_qwen2_5_vl.safetensors"
IMAGE_SIZE = 84  # 6 x 6 patches of 14 pixels, merged 2 x 2: nine image tokens
# With a smaller value the outputs of the linear layers are so small at this width that the model does not learn to use
# the image (measured: never with 0.02, after some hundred steps with 0.08).
INIT_STD = 0.08
FAMILIES = {"tiny": "qwen2_5_vl", "tiny-qwen2": "qwen2_vl", "tiny-llava": "llava"}
QWEN_SPECIALS = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
LLAVA_SPECIALS = ("<unk>", "<pad>", "<s>", "</s>", "<image>")
# Fixed parts of an answer are single tokens, so that nearly every answer token carries information.
PIECES = ("Action: [", "Pose: [", ", ", "]")
# Qwen's own template in fewer tokens. The image comes first, as there.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


class TinyAssetError(RuntimeError):
    """The shipped tiny weights are missing or differ from their record."""


def vocabulary(family: str = "qwen2_5_vl") -> dict[str, int]:
    """Returns token -> id: special tokens, answer pieces, signs, digits, and the words of the nine tasks."""
    words = dict.fromkeys(word for task in SUITE for word in split_task(task))
    specials, roles = (LLAVA_SPECIALS, ("USER", "ASSISTANT", ":")) if family == "llava" else (QWEN_SPECIALS, ())
    tokens = [*specials, *PIECES, "+", "-", ".", *"0123456789", "pose", "question", *words, *roles]
    return {token: i for i, token in enumerate(tokens)}


def tiny_tokenizer(family: str = "qwen2_5_vl"):
    """Returns a tokenizer of words and symbols with the family's special tokens; unknown text becomes ``<unk>``.

    As in the released models, LLaVA's starts each text with ``<s>`` and has no chat template, and Qwen's does not and
    has one.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    llava = family == "llava"
    core = Tokenizer(models.WordLevel(vocabulary(family), unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\s+"), "removed"),
            pre_tokenizers.Split(Regex(r"[A-Za-z_]+|."), "isolated"),
        ]
    )
    core.decoder = decoders.Fuse()
    specials = LLAVA_SPECIALS if llava else QWEN_SPECIALS
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    core.add_tokens([AddedToken(s, normalized=False) for s in PIECES])
    if llava:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>" if llava else "<|im_end|>",
        chat_template=None if llava else CHAT_TEMPLATE,
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(tokenizer=None, family: str = "qwen2_5_vl"):
    """Returns the configuration of a tiny model; token ids are read from the tokenizer."""
    tokenizer = tokenizer or tiny_tokenizer(family)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": INIT_STD,
        "bos_token_id": None,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return _llava_config(tokenizer, text) if family == "llava" else _qwen_config(tokenizer, text, family)


def _qwen_config(tokenizer, text: dict, family: str):
    from transformers import Qwen2_5_VLConfig, Qwen2VLConfig

    token_id = tokenizer.convert_tokens_to_ids
    vision = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": INIT_STD,
    }
    if family == "qwen2_vl":
        vision |= {"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}
    else:
        vision |= {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 128}
        vision |= {"window_size": 112, "fullatt_block_indexes": [1]}
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 6, 6]}
    config_class: Any = Qwen2VLConfig if family == "qwen2_vl" else Qwen2_5_VLConfig
    return config_class(
        text_config={**text, "rope_parameters": rope},
        vision_config=vision,
        image_token_id=token_id("<|image_pad|>"),
        # The tiny model takes no video; an id outside the vocabulary cannot occur in a prompt.
        video_token_id=len(tokenizer),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
        initializer_range=INIT_STD,
        tie_word_embeddings=True,
    )


def _llava_config(tokenizer, text: dict):
    from transformers import LlavaConfig

    vision = {
        "model_type": "clip_vision_model",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,  # the output of the last but one is used
        "num_attention_heads": 4,
        "patch_size": 14,
        "image_size": IMAGE_SIZE,
        "projection_dim": 64,
    }
    config_class: Any = LlavaConfig
    return config_class(
        text_config={"model_type": "llama", **text},
        vision_config=vision,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        initializer_range=INIT_STD,
    )


def build_tiny(seed: int = 0, family: str = "qwen2_5_vl"):
    """Returns (model f32, tokenizer) with random weights from the seed. Torch's global generator is not touched."""
    import torch
    import transformers

    from covr_jax.vlm.models.backbones import BACKBONES

    tokenizer = tiny_tokenizer(family)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model_class = getattr(transformers, BACKBONES[family].model_class)
        model = model_class(tiny_config(tokenizer, family)).float().eval()
    return model, tokenizer


def load_tiny(path: Path | str | None = None):
    """Returns (model f32, tokenizer) with the shipped weights, checked against the sha256 in their JSON record.

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
