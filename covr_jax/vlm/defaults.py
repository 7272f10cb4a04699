"""Default options of the two kinds of VLM: released checkpoints and the tiny models of this package. No Torch here.

``training.resolve`` writes them into the config of a run; ``engine.VLMEngine`` takes them where it is used by itself.
"""

from __future__ import annotations

from typing import NamedTuple

from covr_jax.vlm.models.backbones import BACKBONES
from covr_jax.vlm.models.tiny import FAMILIES, IMAGE_SIZE


class VLMDefaults(NamedTuple):
    """Defaults of one kind of VLM."""

    image_size: int  # input height = width, pixels, of models that take images of any size
    lora_rank: int
    lora_alpha: float  # of tasks that bring no value of their own
    lora_dropout: float
    learning_rate: float  # AdamW's
    batch_size: int  # samples per optimiser step
    warmup: float  # share of a round's steps with rising learning rate
    label_smoothing: float

    @property
    def lora(self) -> dict[str, float]:
        """Arguments of ``models.loading.add_lora``."""
        return {"rank": self.lora_rank, "alpha": self.lora_alpha, "dropout": self.lora_dropout}

    @property
    def finetune(self) -> dict[str, float]:
        """Fields of ``trainer.FinetuneOptions``."""
        names = ("learning_rate", "batch_size", "warmup", "label_smoothing")
        return {name: getattr(self, name) for name in names}


# LoRA rank and alpha are the paper's; the image size makes 64 image tokens of Qwen's.
RELEASED = VLMDefaults(224, 128, 16.0, 0.05, learning_rate=1e-4, batch_size=16, warmup=0.03, label_smoothing=0.1)
# What fits 0.7 million parameters is not what fits three billion. On cartpole frames labelled clip(0.8 sin - x), 150
# steps reach a mean error of 0.09 (rank 32: 0.13; alpha = rank = 32 with rate 4e-3: 0.26).
TINY = VLMDefaults(IMAGE_SIZE, 16, 64.0, 0.0, learning_rate=2e-3, batch_size=32, warmup=0.05, label_smoothing=0.0)


def is_tiny(name: str) -> bool:
    """Whether a name of ``--vlm`` is that of a tiny model of this package."""
    return name in FAMILIES


def image_size(name: str) -> int | None:
    """Returns the input height = width of a VLM, pixels; None where only the loaded model tells."""
    if is_tiny(name):
        return TINY.image_size
    hub_id = name.partition("@")[0]
    for backbone in BACKBONES.values():
        if backbone.hub_id == hub_id:
            fixed = backbone.released["vision_config"].get("image_size")
            return RELEASED.image_size if backbone.native_patches else fixed
    return None
