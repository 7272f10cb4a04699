"""Loading a Qwen2.5-VL (tiny, local or from the hub), LoRA around it, and frames into its patches on the device.

Letters: N samples, H W C image, P patches per image, L tokens.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import torch

from covr_jax.vlm import tiny
from covr_jax.vlm.prompts import Prompt
from covr_jax.vlm.vision import use_equal_windows

DEFAULT_MODEL = "Qwen/Qwen2.5-VL-3B-Instruct"
# Qwen2.5-VL's vision encoder was trained on images normalised with CLIP's statistics.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# The seven linear layers of the language model only; plain suffixes would also hit the vision MLPs of the same names.
LANGUAGE_TARGETS = r".*language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


class VLMLoadError(RuntimeError):
    """The requested VLM cannot be loaded; the message is one line and says what to do."""


class ImageSettings(NamedTuple):
    """How frames become patches; everything but ``size`` is read from the model's own configuration."""

    size: int  # side in pixels after resizing, a multiple of patch * merge
    patch: int
    merge: int
    temporal: int
    interpolation: str = "bicubic"  # as in the upstream image processor

    @property
    def tokens(self) -> int:
        """Image tokens that the language model sees per frame."""
        return (self.size // (self.patch * self.merge)) ** 2

    @property
    def grid(self) -> tuple[int, int, int]:
        """Patches in time, height and width."""
        return (1, self.size // self.patch, self.size // self.patch)


class Backbone(NamedTuple):
    """A loaded model with all that is needed to ask it something."""

    model: Any  # Qwen2_5_VLForConditionalGeneration, or the PeftModel around it
    tokenizer: Any
    image: ImageSettings
    is_tiny: bool


class ParameterCount(NamedTuple):
    """Weights of the VLM."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100.0 * self.trainable / self.total
        return f"trainable parameters: {self.trainable:,} of {self.total:,} ({share:.2f}%)"


def load_backbone(name: str = DEFAULT_MODEL, *, image_size: int | None = None, dtype="auto", device="cpu") -> Backbone:
    """Loads 'tiny', a local directory or a hub id.

    Args:
      name: 'tiny', a path, or a hub id such as ``Qwen/Qwen2.5-VL-3B-Instruct``.
      image_size: side to which frames are resized; None: 84 for 'tiny', 224 (64 image tokens) otherwise.
      dtype: torch dtype or its name; 'auto' is float32 for 'tiny' and for CPUs, bfloat16 elsewhere.

    Raises:
      VLMLoadError: one line, if the weights are missing, unreadable or not a Qwen2.5-VL.
      ValueError: if ``image_size`` does not fit the model's patches.
    """
    is_tiny = name == "tiny"
    device = torch.device(device)
    if dtype == "auto":
        dtype = torch.float32 if is_tiny or device.type == "cpu" else torch.bfloat16
    dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    try:
        model, tokenizer = tiny.load_tiny() if is_tiny else _load_pretrained(name, dtype)
    except tiny.TinyAssetError as error:
        raise VLMLoadError(str(error)) from error
    model = model.to(device=device, dtype=dtype).eval()
    return backbone_from(model, tokenizer, image_size, is_tiny=is_tiny)


def backbone_from(model, tokenizer, image_size: int | None = None, *, is_tiny: bool = False) -> Backbone:
    """Wraps a model that is already in memory (tests and the builder of the tiny model use this)."""
    vision = model.config.vision_config
    image = ImageSettings(
        image_size or (tiny.IMAGE_SIZE if is_tiny else 224),
        vision.patch_size,
        vision.spatial_merge_size,
        vision.temporal_patch_size,
    )
    if image.size % (image.patch * image.merge) or image.size <= 0:
        raise ValueError(f"image_size must be a multiple of {image.patch * image.merge}, got {image.size}")
    if model.model.visual.config._attn_implementation == "sdpa":
        use_equal_windows(model)
    return Backbone(model, tokenizer, image, is_tiny)


def _load_pretrained(name: str, dtype):
    from huggingface_hub import hf_hub_download
    from transformers import AutoTokenizer, Qwen2_5_VLForConditionalGeneration

    path = Path(name).expanduser()
    where = "directory" if path.exists() or name[:1] in "/.~" else "hub id"
    source = str(path) if where == "directory" else name
    try:
        if where == "directory":
            (path / "config.json").stat()
        else:
            # Without a network every file would be retried for half a minute; ask for the smallest one first.
            hf_hub_download(name, "config.json")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False
        )
    except Exception as error:  # hub, file system and format errors share no base class
        raise VLMLoadError(
            f"cannot load the VLM {name!r} as a {where}: {type(error).__name__}: {_first_line(error)} | download the "
            f"safetensors snapshot of {DEFAULT_MODEL} and point to it with --vlm <path or hub id>, or use --vlm tiny"
        ) from error
    return model, tokenizer


def _first_line(error: BaseException, limit: int = 160) -> str:
    text = re.sub(r"[^\x20-\x7e]+", " ", str(error)).strip()
    return text[:limit]


def add_lora(
    backbone: Backbone,
    *,
    rank: int = 128,
    alpha: float = 16.0,
    dropout: float = 0.05,
    targets: str = "all-linear",
    seed: int = 0,
) -> tuple[Backbone, ParameterCount]:
    """LoRA as in the paper: adapters scaled by alpha / rank beside frozen linear layers, B = 0 at the start.

    Args:
      targets: 'all-linear' (language model, vision tower and merger), 'language' (the language model's seven linear
        layers per block), or a regular expression over module names.
      seed: initialises the A matrices; Torch's global generator is left alone.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=LANGUAGE_TARGETS if targets == "language" else targets,
        bias="none",
        task_type="CAUSAL_LM",
    )
    devices = [backbone.model.device] if backbone.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # peft asks transformers about checkpointing by its former name.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            model = get_peft_model(backbone.model, config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return backbone._replace(model=model.eval()), ParameterCount(trainable, total)


def preprocess(frames: torch.Tensor, image: ImageSettings) -> torch.Tensor:
    """u8[N,H,W,3] -> f32[N*P, 3*temporal*patch*patch] in the upstream image processor's layout, on the frames' device.

    Frames of another size are resized to ``image.size`` squared (aspect ratio is not kept) with antialiasing; like the
    upstream processor the resized image is rounded back to 8 bits before it is normalised.
    """
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"frames must be uint8 [N,H,W,3], got {frames.dtype} {tuple(frames.shape)}")
    x = frames.permute(0, 3, 1, 2).float()
    if x.shape[-2:] != (image.size, image.size):
        size = (image.size, image.size)
        x = torch.nn.functional.interpolate(x, size, mode=image.interpolation, align_corners=False, antialias=True)
        x = x.round().clamp(0.0, 255.0)
    mean = torch.tensor(CLIP_MEAN, device=x.device).view(1, 3, 1, 1)
    std = torch.tensor(CLIP_STD, device=x.device).view(1, 3, 1, 1)
    x = (x / 255.0 - mean) / std
    n, m, p = x.shape[0], image.merge, image.patch
    g = image.size // (p * m)
    # Patches that the merger joins are neighbours in the sequence: [N, g, g, m, m, C, p, p].
    x = x.reshape(n, 3, g, m, p, g, m, p).permute(0, 2, 5, 3, 6, 1, 4, 7)
    x = x.unsqueeze(6).expand(*x.shape[:6], image.temporal, p, p)
    return x.reshape(n * (g * m) ** 2, 3 * image.temporal * p * p)


class PromptTokens(NamedTuple):
    """A tokenised prompt, the same for every sample of a batch."""

    ids: torch.Tensor  # i64[L]
    types: torch.Tensor  # i64[L], 1 on image tokens: the model's mm_token_type_ids


def tokenize_prompt(backbone: Backbone, prompt: Prompt) -> PromptTokens:
    """Chat layout from the tokenizer's own template, with the image placeholder widened to the image's token count.

    Raises:
      ValueError: if the tokenizer has no chat template or no image placeholder.
    """
    tokenizer = backbone.tokenizer
    pad_id = backbone.model.config.image_token_id
    messages = [{"role": "system", "content": [{"type": "text", "text": prompt.system}]}] if prompt.system else []
    content = [{"type": "image"}, {"type": "text", "text": prompt.user}]
    messages.append({"role": "user", "content": content})
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    ids = tokenizer(text, add_special_tokens=False).input_ids
    if ids.count(pad_id) != 1:
        raise ValueError("the tokenizer's chat template must place exactly one image token for one image")
    at = ids.index(pad_id)
    ids = ids[:at] + [pad_id] * backbone.image.tokens + ids[at + 1 :]
    ids = torch.tensor(ids, dtype=torch.long, device=backbone.model.device)
    return PromptTokens(ids, (ids == pad_id).long())


def base_model(model):
    """The transformers model inside a PeftModel (or the model itself)."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def positions(backbone: Backbone, prompt: PromptTokens, length: int) -> torch.Tensor:
    """i64[3,1,length] multimodal rotary positions of the prompt followed by text.

    They depend on the layout only, so one row serves the whole batch; the model would otherwise walk every row on the
    host. Omitting the token types silently gives image tokens text positions.
    """
    extra = length - prompt.ids.numel()
    ids = torch.nn.functional.pad(prompt.ids, (0, extra), value=0)[None]
    types = torch.nn.functional.pad(prompt.types, (0, extra), value=0)[None]
    grid = torch.tensor([backbone.image.grid], device=ids.device)
    index, _ = base_model(backbone.model).model.get_rope_index(ids, mm_token_type_ids=types, image_grid_thw=grid)
    return index


def model_inputs(backbone: Backbone, pixel_values: torch.Tensor, ids: torch.Tensor, prompt: PromptTokens) -> dict:
    """Keyword arguments of one forward pass over [prompt + text] rows.

    Args:
      pixel_values: f32[N*P, D] from ``preprocess``.
      ids: i64[N,L]; rows start with the prompt and may be padded on the right: with causal attention padding on the
        right cannot reach any earlier token, so no mask is needed.
    """
    n, length = ids.shape
    types = torch.nn.functional.pad(prompt.types, (0, length - prompt.types.numel()), value=0)
    return {
        "input_ids": ids,
        "pixel_values": pixel_values,
        "image_grid_thw": torch.tensor([backbone.image.grid] * n, device=ids.device),
        "mm_token_type_ids": types.expand(n, -1),
        "position_ids": positions(backbone, prompt, length).expand(-1, n, -1),
    }


@contextlib.contextmanager
def frozen_eval(model):
    """Inference mode, and the previous train/eval state afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
