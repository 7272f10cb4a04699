"""Descriptions of the supported architectures; no other module distinguishes them by name.

Token ids, patch sizes and end-of-turn tokens are read from the model and its tokenizer. No Torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
# The seven linear layers of the language model only; plain suffixes would also hit the vision MLPs of the same names.
LANGUAGE_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
LORA_TARGETS = ("all-linear", "language", "paper_826")
# LLaVA-1.5 was trained on this template; its checkpoint stores it with the processor, which we do not load.
LLAVA_CHAT = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for c in m['content'] if c['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


# Qwen's, for messages whose content is a list. Some of its snapshots and exports have only a text template beside the
# tokenizer and keep this one in a file of the processor, which we do not load.
QWEN_CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class VLMBackbone(NamedTuple):
    """Properties of one architecture of transformers."""

    family: str  # ``model_type`` in its config.json
    hub_id: str  # its instruction-tuned checkpoint
    model_class: str  # in transformers; a name, since the import is slow
    config_class: str
    released: dict[str, Any]  # sizes of that checkpoint, to study shapes, memory and speed without its weights
    paper_826: str | None  # LoRA targets with the paper's 8.26% of parameters at rank 128; None: there are none
    native_patches: bool = True  # takes patches of squares of any size, with 3-D positions; else pixels of one size
    system_role: bool = True  # its chat template has a system turn
    chat_template: str = QWEN_CHAT  # used where the tokenizer has none that places images
    before_answer: str = "\n"  # the end of the chat template, which the tokens of an answer may depend on
    answer_space: str = ""  # what separates an answer from it


_QWEN_TEXT = {
    "vocab_size": 151_936,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}
_QWEN_VISION = {"depth": 32, "num_heads": 16, "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2}
QWEN2_5_VL = VLMBackbone(
    family="qwen2_5_vl",
    hub_id=DEFAULT_MODEL,
    model_class="Qwen2_5_VLForConditionalGeneration",
    config_class="Qwen2_5_VLConfig",
    released={
        "text_config": {
            **_QWEN_TEXT,
            "hidden_size": 2048,
            "intermediate_size": 11_008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "max_position_embeddings": 128_000,
        },
        "vision_config": {
            **_QWEN_VISION,
            "hidden_size": 1280,
            "intermediate_size": 3420,
            "out_hidden_size": 2048,
            "window_size": 112,
            "fullatt_block_indexes": [7, 15, 23, 31],
        },
        "tie_word_embeddings": True,
    },
    # The seven names as plain suffixes, which the vision MLPs share, and the vision tower's qkv and the output layer.
    paper_826=r".*\.((q|k|v|o|gate|up|down)_proj|qkv)|lm_head",
)
QWEN2_VL = VLMBackbone(
    family="qwen2_vl",
    hub_id="Qwen/Qwen2-VL-2B-Instruct",
    model_class="Qwen2VLForConditionalGeneration",
    config_class="Qwen2VLConfig",
    released={
        "text_config": {
            **_QWEN_TEXT,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "max_position_embeddings": 32_768,
        },
        "vision_config": {**_QWEN_VISION, "embed_dim": 1280, "hidden_size": 1536, "mlp_ratio": 4},
        "tie_word_embeddings": True,
    },
    # As above with the vision tower's other attention layer; its MLPs have other names here.
    paper_826=rf"{LANGUAGE_TARGETS}|.*visual\.blocks\.\d+\.attn\.(qkv|proj)|lm_head",
)
LLAVA = VLMBackbone(
    family="llava",
    hub_id="llava-hf/llava-1.5-7b-hf",
    model_class="LlavaForConditionalGeneration",
    config_class="LlavaConfig",
    released={
        "text_config": {
            "model_type": "llama",
            "vocab_size": 32_064,
            "hidden_size": 4096,
            "intermediate_size": 11_008,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 32,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-5,
        },
        "vision_config": {
            "model_type": "clip_vision_model",
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "patch_size": 14,
            "image_size": 336,
            "projection_dim": 768,
        },
    },
    paper_826=None,
    native_patches=False,
    system_role=False,
    chat_template=LLAVA_CHAT,
    before_answer="ASSISTANT:",
    answer_space=" ",
)
BACKBONES = {b.family: b for b in (QWEN2_5_VL, QWEN2_VL, LLAVA)}


def released_config(backbone: VLMBackbone):
    """Returns the transformers configuration of the released checkpoint, without a download."""
    import transformers

    return getattr(transformers, backbone.config_class)(**backbone.released)


def lora_pattern(backbone: VLMBackbone, targets: str) -> str:
    """Returns the target modules for peft.

    Args:
      backbone: architecture.
      targets: 'all-linear', 'language', 'paper_826' or a regular expression over module names.

    Raises:
      ValueError: 'paper_826' where no set of layers has the paper's share of parameters.
    """
    if targets == "language":
        return LANGUAGE_TARGETS
    if targets != "paper_826":
        return targets
    if backbone.paper_826 is None:
        raise ValueError(f"lora_targets paper_826 does not exist for {backbone.hub_id}: no set of layers gives 8.26%")
    return backbone.paper_826
