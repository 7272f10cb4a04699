"""VLMs of a few megabytes: the classes of transformers at small sizes, so that COVR runs offline on a CPU.

The shipped weights of the tiny Qwen2.5-VL are trained to read joint angles from rendered scenes (see
experiments/build_tiny_vlm.py), never on actions. The other architectures have random weights; they serve to test the
code.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from covr_jax.vlm.models.backbones import BACKBONES
from covr_jax.vlm.prompts import SUITE, split_task

ASSET = Path(__file__).parents[1] / "assets" / "tiny_qwen2_5_vl.safetensors"
IMAGE_SIZE = 84  # 6 x 6 patches of 14 pixels, merged 2 x 2: nine image tokens
# With a smaller value the outputs of the linear layers are so small at this width that the model does not learn to use
# the image (measured: never with 0.02, after some hundred steps with 0.08).
INIT_STD = 0.08
FAMILIES = {
    "tiny": "qwen2_5_vl",
    "tiny-qwen2": "qwen2_vl",
    "tiny-llava": "llava",
    "tiny-qwen3": "qwen3_vl",
    "tiny-qwen3.5": "qwen3_5",
    "tiny-internvl": "internvl",
}
QWEN_SPECIALS = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
LLAVA_SPECIALS = ("<unk>", "<pad>", "<s>", "</s>", "<image>")
INTERNVL_SPECIALS = ("<unk>", "<pad>", "<|im_start|>", "<|im_end|>", "<img>", "</img>", "<IMG_CONTEXT>")
SPECIALS = {"llava": LLAVA_SPECIALS, "internvl": INTERNVL_SPECIALS}  # other families have Qwen's
# Fixed parts of an answer are single tokens, so that nearly every answer token carries information.
PIECES = ("Action: [", "Pose: [", ", ", "]")
# Qwen's own template in fewer tokens. The image comes first, as there.
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
INTERNVL_TEMPLATE = CHAT_TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<IMG_CONTEXT>")


class TinyAssetError(RuntimeError):
    """The shipped tiny weights are missing or differ from their record."""


def vocabulary(family: str = "qwen2_5_vl") -> dict[str, int]:
    """Returns token -> id: special tokens, answer pieces, signs, digits, and the words of the nine tasks."""
    words = dict.fromkeys(word for task in SUITE for word in split_task(task))
    roles = ("USER", "ASSISTANT", ":") if family == "llava" else ()
    specials = SPECIALS.get(family, QWEN_SPECIALS)
    tokens = [*specials, *PIECES, "+", "-", ".", *"0123456789", "pose", "question", *words, *roles]
    return {token: i for i, token in enumerate(tokens)}


def tiny_tokenizer(family: str = "qwen2_5_vl"):
    """Returns a tokenizer of words and symbols with the family's special tokens; unknown text becomes ``<unk>``.

    As in the released models, LLaVA's starts each text with ``<s>`` and has no chat template, and the others do not and
    have one.
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
    specials = SPECIALS.get(family, QWEN_SPECIALS)
    core.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in specials])
    core.add_tokens([AddedToken(s, normalized=False) for s in PIECES])
    if llava:
        core.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", core.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="<unk>",
        pad_token="<pad>",
        eos_token="</s>" if llava else "<|im_end|>",
        chat_template={"llava": None, "internvl": INTERNVL_TEMPLATE}.get(family, CHAT_TEMPLATE),
        model_max_length=512,
        clean_up_tokenization_spaces=False,
    )


def tiny_config(tokenizer=None, family: str = "qwen2_5_vl"):
    """Returns the configuration of a tiny model; token ids are read from the tokenizer."""
    import transformers

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
    make = {"llava": _llava_options, "internvl": _internvl_options}.get(family)
    options = make(tokenizer, text) if make else _qwen_options(tokenizer, text, family)
    config_class: Any = getattr(transformers, BACKBONES[family].config_class)
    return config_class(**options, initializer_range=INIT_STD)


_WIDTHS = {"hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 128}
_POSITIONS = {"num_position_embeddings": 16}  # 4 x 4, interpolated to the patches
# What differs between the families of Qwen: vision tower, language model, rotary positions.
_QWEN: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "qwen2_5_vl": ({**_WIDTHS, "window_size": 112, "fullatt_block_indexes": [1]}, {}, {"mrope_section": [4, 6, 6]}),
    "qwen2_vl": ({"embed_dim": 64, "hidden_size": 128, "mlp_ratio": 2}, {}, {"mrope_section": [4, 6, 6]}),
    "qwen3_vl": (
        {**_WIDTHS, **_POSITIONS, "deepstack_visual_indexes": [0, 1]},
        {"head_dim": 32},
        {"mrope_section": [6, 5, 5], "mrope_interleaved": True},
    ),
    "qwen3_5": (
        {**_WIDTHS, **_POSITIONS},
        {
            "head_dim": 32,
            "layer_types": ["linear_attention", "full_attention", "linear_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 4,
            "linear_key_head_dim": 32,
            "linear_value_head_dim": 32,
        },
        {"mrope_section": [4, 2, 2], "mrope_interleaved": True, "partial_rotary_factor": 0.5},
    ),
}


def _qwen_options(tokenizer, text: dict[str, Any], family: str) -> dict[str, Any]:
    token_id = tokenizer.convert_tokens_to_ids
    vision, attention, positions = _QWEN[family]
    shared = {
        "depth": 2,
        "num_heads": 4,
        "patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "initializer_range": INIT_STD,
    }
    rope = {"rope_type": "default", "rope_theta": 1e4, **positions}
    return {
        "text_config": {**text, **attention, "rope_parameters": rope},
        "vision_config": {**shared, **vision},
        "image_token_id": token_id("<|image_pad|>"),
        # The tiny model takes no video; an id outside the vocabulary cannot occur in a prompt.
        "video_token_id": len(tokenizer),
        "vision_start_token_id": token_id("<|vision_start|>"),
        "vision_end_token_id": token_id("<|vision_end|>"),
        "tie_word_embeddings": True,
    }


def _llava_options(tokenizer, text: dict[str, Any]) -> dict[str, Any]:
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
    return {
        "text_config": {"model_type": "llama", **text},
        "vision_config": vision,
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }


def _internvl_options(tokenizer, text: dict[str, Any]) -> dict[str, Any]:
    vision = {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "attention_bias": True,
        "patch_size": 14,
        "image_size": IMAGE_SIZE,
        "initializer_range": INIT_STD,
    }
    return {
        "text_config": {"model_type": "qwen2", **text},
        "vision_config": vision,
        "image_token_id": tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        "image_seq_length": (IMAGE_SIZE // 28) ** 2,
        "tie_word_embeddings": False,
    }


def build_tiny(seed: int = 0, family: str = "qwen2_5_vl"):
    """Returns (model f32, tokenizer) with random weights from the seed. Torch's global generator is not touched."""
    import torch
    import transformers

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
