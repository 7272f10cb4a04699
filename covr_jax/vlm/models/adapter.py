"""LoRA adapters on disk: adapter_model.safetensors and adapter_config.json, as peft writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from covr_jax.vlm.models.loading import base_model
from covr_jax.vlm.models.pretrained import VLMLoadError

ADAPTER_FILE = "adapter_model.safetensors"


def save_adapter(model: Any, directory: Path) -> None:
    """Writes the adapter of a PeftModel to a directory; each file is written completely or not at all."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    directory.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    _write(directory / ADAPTER_FILE, save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
    config = model.peft_config["default"].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    _write(directory / "adapter_config.json", json.dumps(plain, indent=2, default=str).encode())


def load_adapter(model: Any, directory: Path) -> int:
    """Loads what ``save_adapter`` wrote into the adapter of a PeftModel.

    Returns:
      The number of adapted modules.

    Raises:
      VLMLoadError: if the file is missing or damaged, or does not fit the adapter module by module; the adapter is
        then unchanged.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = directory / ADAPTER_FILE
    try:
        state = load(path.read_bytes())
    except (OSError, SafetensorError) as error:
        raise VLMLoadError(f"cannot read the adapter {path}: {error}") from error
    expected = get_peft_model_state_dict(model, save_embedding_layers=False)
    # Key or shape mismatches would silently leave modules without an adapter.
    if {k: v.shape for k, v in state.items()} != {k: v.shape for k, v in expected.items()}:
        raise VLMLoadError(f"the adapter {path} was made for another model, rank or set of target modules")
    set_peft_model_state_dict(model, state)
    active = [m for m in base_model(model).modules() if getattr(m, "active_adapters", None) == ["default"]]
    if len(active) * 2 != len(expected):
        raise VLMLoadError(f"only {len(active)} of {len(expected) // 2} adapter modules are active after loading")
    return len(active)


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
