"""Weights from a local directory or the hub: safetensors only, no remote code, one clear line when it fails."""

from __future__ import annotations

import re
from pathlib import Path

from covr_jax.vlm.backbones import BACKBONES, DEFAULT_MODEL


class VLMLoadError(RuntimeError):
    """The requested VLM cannot be loaded; the message is one line and says what to do."""


def load_pretrained(name: str, dtype):
    """(model, tokenizer) of a directory or of a hub id, which may be pinned: ``owner/name@revision``.

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
        if config.model_type not in BACKBONES:
            raise ValueError(f"model_type {config.model_type!r} is none of {', '.join(BACKBONES)}")
        model_class = getattr(transformers, BACKBONES[config.model_type].model_class)
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **safe)
        model = model_class.from_pretrained(source, dtype=dtype, use_safetensors=True, **safe)
    except Exception as error:  # hub, file system and format errors share no base class
        wanted = source if source in {b.hub_id for b in BACKBONES.values()} else DEFAULT_MODEL
        raise VLMLoadError(
            f"cannot load the VLM {name!r} as a {'directory' if local else 'hub id'}: {type(error).__name__}: "
            f"{_first_line(error)} | download the safetensors snapshot of {wanted} (hf download {wanted} --local-dir "
            "DIR) and point to it with --vlm <path or hub id>, or use --vlm tiny"
        ) from error
    return model, tokenizer


def _first_line(error: BaseException, limit: int = 160) -> str:
    text = re.sub(r"[^\x20-\x7e]+", " ", str(error)).strip()
    return text[:limit]
