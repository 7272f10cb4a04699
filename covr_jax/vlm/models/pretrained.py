"""Weights from a local directory or the hub: safetensors only, no remote code, one clear line when it fails."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from covr_jax.vlm.models.backbones import BACKBONES

CHAT_MODELS = {family: description.model_class for family, description in BACKBONES.items()}
CHAT_IDS = tuple(description.hub_id for description in BACKBONES.values())


class VLMLoadError(RuntimeError):
    """The requested VLM cannot be loaded; the message is one line and says what to do."""


def load_pretrained(name: str, dtype, classes: Mapping[str, str] = CHAT_MODELS, hub_ids: tuple[str, ...] = CHAT_IDS):
    """(model, tokenizer) of a directory or of a hub id, which may be pinned: ``owner/name@revision``.

    Args:
      classes: of transformers, per 'model_type' that will do. hub_ids: models that are meant, the default first.

    Raises:
      VLMLoadError: one line that names what to download and how to point to it.
    """
    import transformers
    from huggingface_hub import hf_hub_download

    path = Path(name).expanduser()
    local = path.exists() or name[:1] in "/.~"
    source, _, revision = (str(path), "", "") if local else name.partition("@")
    safe = {"trust_remote_code": False, **({"revision": revision} if revision else {})}
    try:
        if local:
            (path / "config.json").stat()
        else:
            # Without a network every file would be retried for half a minute; ask for the smallest one first.
            hf_hub_download(source, "config.json", revision=revision or None)
        config = transformers.AutoConfig.from_pretrained(source, **safe)
        if config.model_type not in classes:
            raise ValueError(f"model_type {config.model_type!r} is none of {', '.join(classes)}")
        model_class = getattr(transformers, classes[config.model_type])
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        model = model_class.from_pretrained(source, dtype=dtype, use_safetensors=True, **safe)
    except Exception as error:  # hub, file system and format errors share no base class
        wanted = source if source in hub_ids else hub_ids[0]
        raise VLMLoadError(
            f"cannot load the VLM {name!r} as a {'directory' if local else 'hub id'}: {type(error).__name__}: "
            f"{_first_line(error)} | download the safetensors snapshot of {wanted} (hf download {wanted} --local-dir "
            "DIR) and point to it with --vlm <path or hub id>, or use --vlm tiny"
        ) from error
    return model, tokenizer


def placement(device, dtype, *, is_tiny: bool):
    """(torch.device, torch.dtype) of their names; 'auto' is the GPU where Torch has one, and float32 for tiny models
    and CPUs, bfloat16 elsewhere.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(device)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise VLMLoadError("--vlm.device cuda: Torch finds no GPU; use --vlm.device cpu, or install its CUDA build")
    if dtype == "auto":
        dtype = torch.float32 if is_tiny or device.type == "cpu" else torch.bfloat16
    return device, getattr(torch, dtype) if isinstance(dtype, str) else dtype


def share_gpu(share: float | None, device) -> None:
    """Let Torch take this share of a GPU's memory; beyond it Torch runs out, instead of JAX. None: all."""
    import torch

    if share is not None and torch.cuda.is_available() and device != "cpu":
        torch.cuda.set_per_process_memory_fraction(share)


def _first_line(error: BaseException, limit: int = 160) -> str:
    text = re.sub(r"[^\x20-\x7e]+", " ", str(error)).strip()
    return text[:limit]
