"""How a GPU's memory is divided between the VLM in Torch and the learner in JAX."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from covr_jax.config import MAP_METHODS, WITH_VLM, Config
from covr_jax.vlm.defaults import RELEASED, is_tiny
from covr_jax.vlm.models.backbones import BACKBONES, released_config

if TYPE_CHECKING:
    from covr_jax.vlm.budget import Needs

_SMALL = 0.1  # share of a model of megabytes, and the least
LARGEST = 0.9  # where the learner is small or elsewhere
_LEARNER = 0.4  # share that a pass of a few samples must leave to JAX, or activations are recomputed
_UNKNOWN = 0.5  # of a model that only its download describes


def model_config(name: str) -> Any:
    """Returns the transformers config of a directory, or of a released checkpoint, which is not downloaded; or None.

    Args:
      name: as ``--vlm``.
    """
    import transformers

    known = {backbone.hub_id: backbone for backbone in BACKBONES.values()}
    if name.partition("@")[0] in known:
        return released_config(known[name.partition("@")[0]])
    if (Path(name).expanduser() / "config.json").is_file():
        return transformers.AutoConfig.from_pretrained(str(Path(name).expanduser()), local_files_only=True)
    return None


def torch_share(config: Config) -> float | None:
    """Returns the share of the GPU's memory that Torch may take; JAX gets the rest.

    It is ``vlm.gpu_share``, or else what the model needs to answer and to be fine-tuned by passes of a few samples.

    Returns:
      None: no part of the run is Torch on a GPU.
    """
    vlm = config.vlm
    if config.method not in WITH_VLM or vlm.device == "cpu" or vlm.name == "fake" or vlm.replay is not None:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    if vlm.gpu_share is not None:
        return vlm.gpu_share
    if is_tiny(vlm.name) or config.method in MAP_METHODS:
        return _SMALL
    total = torch.cuda.get_device_properties(0).total_memory
    return _share_of(vlm.name, vlm.image_size, vlm.lora_rank or RELEASED.lora_rank, vlm.batch_size, total)


@cache
def _share_of(name: str, image_size: int | None, rank: int, batch_size: int | None, total: int) -> float:
    from covr_jax.vlm import budget

    try:
        config = model_config(name)
    except (OSError, ValueError) as error:  # loading the model will say so as well
        print(f"the memory that {name} needs is not known: {error}", file=sys.stderr)
        config = None
    if config is None or config.model_type not in BACKBONES:
        return _UNKNOWN
    needs = budget.needs(*budget.without_weights(config, image_size, rank=rank), budget.ANSWER_TOKENS)
    return share_needed(needs, total, batch_size or RELEASED.batch_size)


def share_needed(needs: Needs, total: int, batch_size: int) -> float:
    """Returns the share of a GPU with which a model can be fine-tuned.

    Args:
      needs: of the model.
      total: bytes of the GPU.
      batch_size: samples per optimiser step.
    """
    from covr_jax.vlm.budget import FEW, SAFETY

    always = needs.to_answer() + needs.training
    plain = always + min(FEW, batch_size) * needs.saved.plain / SAFETY
    recomputed = always + needs.saved.recomputed / SAFETY
    wanted = plain if plain <= (1.0 - _LEARNER) * total else recomputed
    return min(max(wanted / total, _SMALL), LARGEST)
