"""What a method is asked for, and the numbers that its authors publish with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from covr_jax.config import AugmentConfig, ConfigError


@dataclass(frozen=True)
class PublishedHyperparameters:
    """Options in which a method's published setting differs from the config's defaults, by group.

    ``env`` and ``sac`` hold sizes and speeds that full-size presets take over and smaller ones leave; ``augment``,
    ``always`` (of ``sac``) and ``vlm`` belong to the method's rule and are taken over by every preset, but for the name
    of a model where the preset has the embedded one.
    """

    env: dict[str, Any] = field(default_factory=dict)
    sac: dict[str, Any] = field(default_factory=dict)
    augment: dict[str, Any] = field(default_factory=dict)
    always: dict[str, Any] = field(default_factory=dict)
    vlm: dict[str, Any] = field(default_factory=dict)


class MethodSpec(NamedTuple):
    """What a method is made for."""

    name: str
    augment: AugmentConfig
    image_size: int  # as rendered

    def refuse_augmentation(self) -> None:
        """For methods without one. Raises ConfigError where one is asked for."""
        if self.augment.kind not in ("auto", "none"):
            raise ConfigError(f"{self.name} uses no augmentation; drop --augment.kind {self.augment.kind} or use rad")
        self._refuse_size()

    def refuse_other_augmentation(self) -> None:
        """For methods that bring their own. Raises ConfigError where another is asked for."""
        if self.augment.kind != "auto":
            raise ConfigError(f"{self.name} brings its own augmentation; drop --augment.kind {self.augment.kind}")
        self._refuse_size()

    def _refuse_size(self) -> None:
        if self.augment.size is not None:
            raise ConfigError(f"{self.name} keeps the pictures' size; drop --augment.size {self.augment.size}")
