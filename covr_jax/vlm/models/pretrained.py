"""Loads weights from a local directory or the hub: safetensors only, no remote code, one clear line on failure."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from covr_jax.vlm.models.backbones import BACKBONES

_BUFFERS = ("position_ids", "inv_freq")  # older checkpoints hold them; models compute them
_LARGE_BYTES = 4 * 10**9
CHAT_MODELS = {family: description.model_class for family, description in BACKBONES.items()}
CHAT_IDS = tuple(description.hub_id for description in BACKBONES.values())


class VLMLoadError(RuntimeError):
    """The requested VLM cannot be loaded; the message is one line and says what to do."""


def load_pretrained(name: str, dtype, classes: Mapping[str, str] = CHAT_MODELS, hub_ids: tuple[str, ...] = CHAT_IDS):
    """Loads a model and its tokenizer.

    Args:
      name: a directory, or a hub id, which may be pinned as ``owner/name@revision``.
      dtype: Torch dtype of the weights.
      classes: class in transformers per accepted ``model_type``.
      hub_ids: models that the error message suggests, the default first.

    Returns:
      (model, tokenizer).

    Raises:
      VLMLoadError: one line that says what to download and which option to set.
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
            if (path / "adapter_config.json").exists():  # transformers would load it, and it would be overwritten
                raise ValueError(
                    "it holds a LoRA adapter: merge it into its base model first, or give it as --vlm.adapter"
                )
        else:
            # Without a network every file would be retried for half a minute; try the smallest one first.
            hf_hub_download(source, "config.json", revision=revision or None)
        config = transformers.AutoConfig.from_pretrained(source, **safe)
        if config.model_type not in classes:
            raise ValueError(f"model_type {config.model_type!r} is none of {', '.join(classes)}")
        if getattr(config, "quantization_config", None):
            raise ValueError("its weights are quantised, which cannot be fine-tuned here: take the unquantised ones")
        model_class = getattr(transformers, classes[config.model_type])
        _warn_of_size(model_class, config, dtype, name)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        model, report = model_class.from_pretrained(
            source, dtype=dtype, use_safetensors=True, output_loading_info=True, **safe
        )
        _refuse_incomplete(report)
    except Exception as error:  # errors of the hub, the file system and the format share no base class
        wanted = source if source in hub_ids else hub_ids[0]
        raise VLMLoadError(
            f"cannot load the VLM {name!r} as a {'directory' if local else 'hub id'}: {type(error).__name__}: "
            f"{_first_line(error)} | download the safetensors snapshot of {wanted} (hf download {wanted} --local-dir "
            "DIR) and point to it with --vlm <path or hub id>, or use --vlm tiny"
        ) from error
    return model, tokenizer


def _warn_of_size(model_class: Any, config: Any, dtype: Any, name: str) -> None:
    """Warns of weights in float32 that take many GB, before they are read; only their shapes are made for it."""
    import torch

    if dtype != torch.float32:
        return
    with torch.device("meta"):
        size = 4 * sum(p.numel() for p in model_class(config).parameters())
    if size > _LARGE_BYTES:
        warnings.warn(
            f"{name} in float32, the default on CPUs, takes {size / 1e9:.0f} GB of memory; --vlm.dtype bfloat16 takes"
            " half",
            stacklevel=4,
        )


def _refuse_incomplete(report: Mapping[str, Any]) -> None:
    """Refuses weights that leave parameters at random values, by what ``from_pretrained`` reports.

    Raises:
      ValueError: tensors are missing, unknown or of another shape; it names the first.
    """
    for kind in ("missing_keys", "mismatched_keys", "unexpected_keys"):
        names = sorted(name for name in map(str, report.get(kind) or ()) if not name.endswith(_BUFFERS))
        if names:
            reason = {"missing_keys": "missing", "mismatched_keys": "of another shape"}.get(
                kind, "unknown to the model"
            )
            raise ValueError(f"{len(names)} tensors are {reason}, the first is {names[0]}")


def placement(device, dtype, *, is_tiny: bool):
    """Resolves the names of a device and a dtype.

    Args:
      device: Torch device or its name; 'auto': the GPU if Torch has one.
      dtype: Torch dtype or its name; 'auto': float32 for tiny models and on CPUs, bfloat16 elsewhere.
      is_tiny: whether the model is a tiny one.

    Returns:
      (torch.device, torch.dtype).

    Raises:
      VLMLoadError: for a GPU that Torch does not find.
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
    """Limits Torch to a share of the GPU's memory, so that Torch runs out of memory before JAX does. None: no limit."""
    import torch

    if share is not None and torch.cuda.is_available() and device != "cpu":
        torch.cuda.set_per_process_memory_fraction(share)


def _first_line(error: BaseException, limit: int = 160) -> str:
    text = re.sub(r"[^\x20-\x7e]+", " ", str(error)).strip()
    return text[:limit]
