"""CLIP, released or tiny, and its features of image patches and texts.

N images, P patches per side, D width of the space that patches and texts share, T texts.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

from covr_jax.vlm.models.images import ImageSettings
from covr_jax.vlm.models.pretrained import load_pretrained
from covr_jax.vlm.prompts import TASKS, categories_for

CLASSES = {"clip": "CLIPModel"}
HUB_IDS = ("openai/clip-vit-base-patch16",)
SPECIALS = ("<|endoftext|>", "<|startoftext|>", "<unk>")
TINY_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "projection_dim": 16,
}


class Clip(NamedTuple):
    """A loaded model with its tokenizer and image settings."""

    model: Any  # transformers' CLIPModel
    tokenizer: Any
    image: ImageSettings


def load_clip(name: str, device: torch.device, dtype: torch.dtype, image_size: int | None = None) -> Clip:
    """Loads a CLIP model.

    Args:
      name: 'tiny', a local directory or a hub id such as ``openai/clip-vit-base-patch16``.
      device: where the weights are kept.
      dtype: of the weights.
      image_size: None, or the model's own.

    Raises:
      VLMLoadError: one line, if the weights are missing, unreadable or not CLIP's.
      ValueError: for an image size for which the model has no positions.
    """
    loaded: tuple[Any, Any] = build_tiny_clip() if name == "tiny" else load_pretrained(name, dtype, CLASSES, HUB_IDS)
    model, tokenizer = loaded
    vision = model.config.vision_config
    if image_size not in (None, vision.image_size):
        raise ValueError(f"image_size must be {vision.image_size} for {name}, got {image_size}")
    image = ImageSettings(vision.image_size, vision.patch_size, 1, 1, patches=False)
    return Clip(model.to(device=device, dtype=dtype).requires_grad_(False).eval(), tokenizer, image)


def build_tiny_clip(seed: int = 0):
    """Returns (model f32, tokenizer) of CLIP's architecture with random weights, for images of 7 x 7 patches.

    Its similarities carry no meaning. Torch's global generator is not touched.
    """
    from transformers import CLIPConfig, CLIPModel

    tokenizer = tiny_tokenizer()
    special = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {**TINY_SIZES, **special, "vocab_size": len(tokenizer), "max_position_embeddings": 16}
    vision = {**TINY_SIZES, "image_size": 56, "patch_size": 8}
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=TINY_SIZES["projection_dim"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIPModel(config).float().eval()
    return model, tokenizer


def tiny_tokenizer():
    """Returns a tokenizer of the words in the captions of all tasks, with CLIP's special tokens around a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = dict.fromkeys(word for task in TASKS for text in categories_for(task) for word in text.split())
    vocabulary = {token: number for number, token in enumerate((*SPECIALS, *words))}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    end, start = SPECIALS[:2]
    ids = [(token, vocabulary[token]) for token in (start, end)]
    core.post_processor = processors.TemplateProcessing(f"{start} $A {end}", special_tokens=ids)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=start, eos_token=end, pad_token=end, unk_token="<unk>", model_max_length=16
    )


@torch.inference_mode()
def text_features(clip: Clip, texts: tuple[str, ...]) -> torch.Tensor:
    """Returns the features of T texts, unit vectors f32[T,D]."""
    tokens = clip.tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt").to(clip.model.device)
    pooled = clip.model.text_model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask).pooler_output
    return torch.nn.functional.normalize(clip.model.text_projection(pooled).float(), dim=-1)


@torch.inference_mode()
def patch_features(clip: Clip, pixels: torch.Tensor) -> torch.Tensor:
    """Returns the features of image patches, unit vectors f32[N,P,P,D].

    The last hidden state of each patch is processed as CLIP does the class token: LayerNorm, then the projection.

    Args:
      clip: model.
      pixels: f32[N,3,size,size] from ``images.preprocess``.
    """
    model = clip.model
    hidden = model.vision_model(pixel_values=pixels.to(model.dtype)).last_hidden_state[:, 1:]
    projected = model.visual_projection(model.vision_model.post_layernorm(hidden)).float()
    _, rows, columns = clip.image.grid
    return torch.nn.functional.normalize(projected, dim=-1).unflatten(1, (rows, columns))
