"""LoRA adapters on disk: adapter_model.safetensors and adapter_config.json, as peft writes them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from covr_jax.runtime.errors import one_line
from covr_jax.vlm.models.loading import base_model
from covr_jax.vlm.models.pretrained import VLMLoadError

ADAPTER_FILE, CONFIG_FILE = "adapter_model.safetensors", "adapter_config.json"
# What decides how an adapter's weights act, beside their shapes.
_KIND = ("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "alpha_pattern", "rank_pattern")


def save_adapter(model: Any, directory: Path) -> None:
    """Writes the adapter of a PeftModel to a directory; each file is written completely or not at all."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save

    directory.mkdir(parents=True, exist_ok=True)
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    _write(directory / ADAPTER_FILE, save({k: v.detach().cpu().contiguous() for k, v in state.items()}))
    config = model.peft_config["default"].to_dict()
    plain = {k: sorted(v) if isinstance(v, set) else v for k, v in config.items()}
    _write(directory / CONFIG_FILE, json.dumps(plain, indent=2, default=str).encode())


def load_adapter(model: Any, directory: Path) -> int:
    """Loads what ``save_adapter`` wrote into the adapter of a PeftModel.

    Returns:
      The number of adapted modules.

    Raises:
      VLMLoadError: if a file is missing or damaged, or the adapter is of another kind or scale, or does not fit module
        by module; the adapter is then unchanged.
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
    _check_kind(model, directory)
    set_peft_model_state_dict(model, state)
    active = [m for m in base_model(model).modules() if getattr(m, "active_adapters", None) == ["default"]]
    if len(active) * 2 != len(expected):
        raise VLMLoadError(f"only {len(active)} of {len(expected) // 2} adapter modules are active after loading")
    return len(active)


def _check_kind(model: Any, directory: Path) -> None:
    """Compares adapter_config.json with the model's adapter: the same weights at another alpha are another adapter."""
    path = directory / CONFIG_FILE
    try:
        saved = json.loads(path.read_text())
        found = {name: saved.get(name) for name in _KIND}
    except (OSError, ValueError, AttributeError) as error:
        raise VLMLoadError(f"cannot read the adapter's {path}: {one_line(error)}") from error
    config = model.peft_config["default"].to_dict()
    for name, value in found.items():
        here = config.get(name)
        if value is not None and value != here and str(value) != str(getattr(here, "value", here)):
            raise VLMLoadError(
                f"the adapter {directory} has {name} {value}, this model's has {here}; set it so, or take another"
            )


def _write(path: Path, content: bytes) -> None:
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)
