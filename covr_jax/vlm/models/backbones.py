"""Descriptions of the supported architectures; no other module distinguishes them by name.

Token ids, patch sizes and end-of-turn tokens are read from the model and its tokenizer. No Torch.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from covr_jax.vlm.models.chat_templates import INTERNVL_CHAT, LLAVA_CHAT, QWEN3_5_CHAT, QWEN_CHAT

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
# The linear layers of the language model's blocks only, seven where attention is not linear; plain suffixes would also
# hit the vision MLPs of the same names.
LANGUAGE_TARGETS = (
    r".*language_model\.layers\.\d+\."
    r"((self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj|linear_attn\.(in_proj_(qkv|z|b|a)|out_proj))"
)
LORA_TARGETS = ("all-linear", "language", "paper_826")


class Statistics(NamedTuple):
    """What is subtracted from red, green and blue in [0, 1], and what divides the rest."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]


CLIP_STATISTICS = Statistics((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
IMAGENET_STATISTICS = Statistics((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SYMMETRIC_STATISTICS = Statistics((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # to [-1, 1]


class VLMBackbone(NamedTuple):
    """Properties of one architecture of transformers."""

    family: str  # ``model_type`` in its config.json
    hub_id: str  # its instruction-tuned checkpoint
    model_class: str  # in transformers; a name, since the import is slow
    config_class: str
    released: dict[str, Any]  # sizes of that checkpoint, to study shapes, memory and speed without its weights
    paper_826: str | None  # LoRA targets with the paper's 8.26% of parameters at rank 128; None: none are known
    native_patches: bool = True  # takes patches of squares of any size, with 3-D positions; else pixels of one size
    statistics: Statistics = CLIP_STATISTICS  # of the images that its vision encoder was trained on
    system_role: bool = True  # its chat template has a system turn
    chat_template: str = QWEN_CHAT  # used where the tokenizer has none that places images
    around_image: tuple[str, ...] = ()  # the two tokens that the processor, not the template, puts around an image's
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
_QWEN3_VISION = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "num_position_embeddings": 2304,
}
QWEN3_VL = VLMBackbone(
    family="qwen3_vl",
    hub_id="Qwen/Qwen3-VL-2B-Instruct",
    model_class="Qwen3VLForConditionalGeneration",
    config_class="Qwen3VLConfig",
    released={
        "text_config": {
            "vocab_size": 151_936,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 262_144,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        "vision_config": {**_QWEN3_VISION, "deepstack_visual_indexes": [5, 11, 17]},
        "tie_word_embeddings": True,
    },
    paper_826=None,
    statistics=SYMMETRIC_STATISTICS,
)
QWEN3_5 = VLMBackbone(
    family="qwen3_5",
    hub_id="Qwen/Qwen3.5-2B",
    model_class="Qwen3_5ForConditionalGeneration",
    config_class="Qwen3_5Config",
    released={
        "text_config": {
            "vocab_size": 248_320,
            "hidden_size": 2048,
            "intermediate_size": 6144,
            "num_hidden_layers": 24,  # every fourth one has softmax attention, the others linear attention
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 16,
            "linear_num_value_heads": 16,
            "linear_key_head_dim": 128,
            "linear_value_head_dim": 128,
            "max_position_embeddings": 262_144,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e7,
                "partial_rotary_factor": 0.25,
                "mrope_section": [11, 11, 10],
                "mrope_interleaved": True,
            },
        },
        "vision_config": _QWEN3_VISION,
        "tie_word_embeddings": True,
    },
    paper_826=None,
    statistics=SYMMETRIC_STATISTICS,
    chat_template=QWEN3_5_CHAT,
    before_answer="\n\n",
)
INTERNVL = VLMBackbone(
    family="internvl",
    hub_id="OpenGVLab/InternVL3-2B-hf",
    model_class="InternVLForConditionalGeneration",
    config_class="InternVLConfig",
    released={
        "text_config": {
            "model_type": "qwen2",
            "vocab_size": 151_674,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32_768,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e6},
        },
        "vision_config": {
            "hidden_size": 1024,
            "intermediate_size": 4096,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "attention_bias": True,
            "patch_size": 14,
            "image_size": 448,
        },
        "downsample_ratio": 0.5,
        "tie_word_embeddings": False,
    },
    paper_826=None,
    native_patches=False,
    statistics=IMAGENET_STATISTICS,
    chat_template=INTERNVL_CHAT,
    around_image=("<img>", "</img>"),
)
BACKBONES = {b.family: b for b in (QWEN2_5_VL, QWEN2_VL, LLAVA, QWEN3_VL, QWEN3_5, INTERNVL)}


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
      ValueError: 'paper_826' where no set of layers is known to have the paper's share of parameters.
    """
    if targets == "language":
        return LANGUAGE_TARGETS
    if targets != "paper_826":
        return targets
    if backbone.paper_826 is None:
        raise ValueError(
            f"lora_targets paper_826 does not exist for {backbone.hub_id}: no set of layers is known to give 8.26%"
        )
    return backbone.paper_826
