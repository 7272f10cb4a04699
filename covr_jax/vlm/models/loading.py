"""Loads a VLM (tiny, local or from the hub), adds LoRA, and makes the inputs of its forward pass.

N samples, L tokens.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch

from covr_jax.vlm.defaults import RELEASED, TINY
from covr_jax.vlm.models import tiny
from covr_jax.vlm.models.backbones import BACKBONES, DEFAULT_MODEL, VLMBackbone, lora_pattern
from covr_jax.vlm.models.images import ImageSettings
from covr_jax.vlm.models.images import preprocess as preprocess  # re-exported for callers of the model
from covr_jax.vlm.models.pretrained import VLMLoadError, load_pretrained, placement
from covr_jax.vlm.models.vision import use_equal_windows
from covr_jax.vlm.prompts import Prompt, chat_messages


class Backbone(NamedTuple):
    """A loaded model with its tokenizer, image settings and description."""

    model: Any  # the transformers model, or the PeftModel around it
    tokenizer: Any
    image: ImageSettings
    is_tiny: bool
    description: VLMBackbone


class ParameterCount(NamedTuple):
    """Numbers of parameters of a VLM."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = 100.0 * self.trainable / self.total
        return f"trainable parameters: {self.trainable:,} of {self.total:,} ({share:.2f}%)"


def load_backbone(name: str = DEFAULT_MODEL, *, image_size: int | None = None, dtype="auto", device="cpu") -> Backbone:
    """Loads a tiny model, a local directory or a hub id.

    Args:
      name: 'tiny' or another of ``tiny.FAMILIES``, a path, or a hub id such as ``Qwen/Qwen2.5-VL-3B-Instruct``, which
        may be pinned as ``owner/name@revision``.
      image_size: height = width to which frames are resized, pixels; None: 84 for tiny models, else 224, or the only
        one of models that take pixels of one size (LLaVA-1.5 336, InternVL 448).
      dtype: Torch dtype or its name; 'auto': float32 for tiny models and on CPUs, bfloat16 elsewhere.
      device: Torch device or its name; 'auto': the GPU if Torch has one.

    Raises:
      VLMLoadError: one line, if the weights are missing, unreadable or of an unsupported architecture.
      ValueError: if ``image_size`` does not fit the model's patches.
    """
    is_tiny = name in tiny.FAMILIES
    device, dtype = placement(device, dtype, is_tiny=is_tiny)
    try:
        model, tokenizer = _load_tiny(name) if is_tiny else load_pretrained(name, dtype)
    except tiny.TinyAssetError as error:
        raise VLMLoadError(str(error)) from error
    model = model.to(device=device, dtype=dtype).eval()
    return backbone_from(model, tokenizer, image_size, is_tiny=is_tiny)


def _load_tiny(name: str):
    """Only the default architecture has trained weights; the others are random."""
    return tiny.load_tiny() if name == "tiny" else tiny.build_tiny(0, tiny.FAMILIES[name])


def backbone_from(model, tokenizer, image_size: int | None = None, *, is_tiny: bool = False) -> Backbone:
    """Wraps a model in memory; used by tests and by the builder of the tiny model."""
    description = BACKBONES[model.config.model_type]
    vision = model.config.vision_config
    if description.native_patches:
        size = image_size or (TINY if is_tiny else RELEASED).image_size
        image = ImageSettings(size, vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size)
        if model.model.visual.config._attn_implementation == "sdpa":
            use_equal_windows(model)
    else:
        fixed, merge = _side(vision.image_size), round(1 / getattr(model.config, "downsample_ratio", 1))
        image = ImageSettings(image_size or fixed, _side(vision.patch_size), merge, 1, patches=False)
        if image.size != fixed:
            raise ValueError(f"image_size must be {fixed} for {description.hub_id}, got {image.size}")
    if image.size % (image.patch * image.merge) or image.size <= 0:
        raise ValueError(f"image_size must be a multiple of {image.patch * image.merge}, got {image.size}")
    return Backbone(model, tokenizer, image._replace(statistics=description.statistics), is_tiny, description)


def _side(size: int | Sequence[int]) -> int:
    """Returns the side of a square, which a configuration gives once or as height and width."""
    return size if isinstance(size, int) else size[0]


def add_lora(
    backbone: Backbone,
    *,
    rank: int = 128,
    alpha: float = 16.0,
    dropout: float = 0.05,
    targets: str = "all-linear",
    seed: int = 0,
) -> tuple[Backbone, ParameterCount]:
    """Adds LoRA as in the paper: adapters scaled by alpha / rank to frozen linear layers, B = 0 at the start.

    Args:
      backbone: model without an adapter.
      rank: of the adapters.
      alpha: scale of the adapters times rank.
      dropout: probability, on the input of the adapters.
      targets: 'all-linear' (language model, vision tower and merger), 'language' (the linear layers of the language
        model's blocks), 'paper_826' (a set with the paper's 8.26% of parameters, output layer included), or a regular
        expression over module names.
      seed: of the A matrices. Torch's global generator is not touched.

    Raises:
      ValueError: for 'paper_826' if the architecture has no such set of layers.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank,
        lora_alpha=cast(Any, alpha),  # declared int, but floats are accepted
        lora_dropout=dropout,
        target_modules=lora_pattern(backbone.description, targets),
        bias="none",
        task_type="CAUSAL_LM",
    )
    devices = [backbone.model.device] if backbone.model.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        with warnings.catch_warnings():
            # peft reads an attribute of transformers by its former name.
            warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
            # An adapter on tied output weights is merged by ``merging``, which unties them.
            warnings.filterwarnings("ignore", ".*tie_word_embeddings.*", UserWarning)
            model = get_peft_model(backbone.model, config)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    return backbone._replace(model=model.eval()), ParameterCount(trainable, total)


class PromptTokens(NamedTuple):
    """A tokenised prompt, the same for every sample of a batch."""

    ids: torch.Tensor  # i64[L]
    types: torch.Tensor  # i64[L], 1 at image tokens; the model's mm_token_type_ids
    positions: torch.Tensor  # i64[3,1,L] (multimodal rotary) or i64[1,L]


def tokenize_prompt(backbone: Backbone, prompt: Prompt) -> PromptTokens:
    """Tokenises a prompt with the model's chat template, with each image placeholder repeated per image token.

    The template is the tokenizer's if it places one image per frame, else the description's; models that can think are
    told to answer at once. Special tokens are added as by the processor of transformers. If the template has no system
    turn, the system text is prepended to the user text.

    Raises:
      ValueError: if neither template places one image placeholder per frame.
    """
    tokenizer, description, image = backbone.tokenizer, backbone.description, backbone.image
    pad_id = backbone.model.config.image_token_id
    messages = chat_messages(prompt, [{"type": "image"}] * image.frames, system_role=description.system_role)
    templates = (tokenizer.chat_template, description.chat_template)
    candidates = (_apply_template(tokenizer, template, messages) for template in templates)
    ids = next((ids for ids in candidates if ids.count(pad_id) == image.frames), None)
    if ids is None:
        raise ValueError("the chat template must place exactly one image token for each image")
    ends = [tokenizer.convert_tokens_to_ids(token) for token in description.around_image]
    shown = [*ends[:1], *[pad_id] * image.tokens, *ends[1:]]
    ids = [i for token in ids for i in (shown if token == pad_id else [token])]
    ids = torch.tensor(ids, dtype=torch.long, device=backbone.model.device)
    types = (ids == pad_id).long()
    if not description.native_patches:
        return PromptTokens(ids, types, torch.arange(len(ids), device=ids.device)[None])
    # The positions are the same for all samples, so they are computed once; the model would do so per row, on the host.
    grid = torch.tensor([image.grid] * image.frames, device=ids.device)
    model = base_model(backbone.model).model
    position_ids, _ = model.get_rope_index(ids[None], mm_token_type_ids=types[None], image_grid_thw=grid)
    return PromptTokens(ids, types, position_ids)


def _apply_template(tokenizer, template: Any, messages: list[dict[str, Any]]) -> list[int]:
    """Returns the token ids of the messages; none where there is no such template, or it takes text only."""
    import jinja2

    if not isinstance(template, str):
        return []
    try:
        text = tokenizer.apply_chat_template(
            messages, chat_template=template, tokenize=False, add_generation_prompt=True, enable_thinking=False
        )
    except (TypeError, jinja2.TemplateError):
        return []
    return tokenizer(text).input_ids


def base_model(model):
    """Returns the transformers model inside a PeftModel, or the model itself."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def positions(prompt: PromptTokens, length: int) -> torch.Tensor:
    """Returns the positions of the prompt and the text that follows, for one row: i64[3,1,length] or i64[1,length].

    A model without positions and token types would silently give image tokens the positions of text.
    """
    extra = torch.arange(1, length - len(prompt.ids) + 1, device=prompt.ids.device)
    extra = (prompt.positions.max() + extra).expand(*prompt.positions.shape[:-1], -1)
    return torch.cat([prompt.positions, extra], -1)


def repeat_positions(position_ids: torch.Tensor, n: int) -> torch.Tensor:
    """Repeats one row of ``positions`` for n samples, as a view."""
    return position_ids.expand(*position_ids.shape[:-2], n, -1)


def model_inputs(backbone: Backbone, pixel_values: torch.Tensor, ids: torch.Tensor, prompt: PromptTokens) -> dict:
    """Returns the keyword arguments of one forward pass over N rows of prompt and text.

    They are those of the processor of transformers, without its attention mask, which is all ones: all rows have the
    same length, and with causal attention padding on the right does not affect earlier tokens.

    Args:
      backbone: model.
      pixel_values: from ``preprocess``.
      ids: i64[N,L]; rows start with the prompt and may be padded on the right.
      prompt: of every row.
    """
    n, length = ids.shape
    inputs = {
        "input_ids": ids,
        "pixel_values": pixel_values,
        "position_ids": repeat_positions(positions(prompt, length), n),
    }
    if backbone.description.native_patches:
        types = torch.nn.functional.pad(prompt.types, (0, length - prompt.types.numel()), value=0)
        inputs["mm_token_type_ids"] = types.expand(n, -1)
        inputs["image_grid_thw"] = torch.tensor([backbone.image.grid] * (n * backbone.image.frames), device=ids.device)
    return inputs


@contextlib.contextmanager
def frozen_eval(model):
    """Context in inference mode; restores the train/eval state from before."""
    was_training = model.training
    if was_training:  # visiting all modules of an adapter takes a tenth of a tiny model's answer
        model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        if was_training:
            model.train()
