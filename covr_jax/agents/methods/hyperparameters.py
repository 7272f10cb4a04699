"""What a method is built from, and the hyperparameters that its authors publish."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from covr_jax.config import AugmentConfig, ConfigError


@dataclass(frozen=True)
class PublishedHyperparameters:
    """Options whose published value differs from the config's default, by name, such as ``sac.batch_size``.

    Every preset applies ``always``, which belongs to the method's rule, except for the name of a VLM where the preset
    uses the embedded one. Full-size presets alone apply ``full_size`` and ``tasks``, which hold sizes and speeds.
    """

    source: str  # repository and files of the released code that the values were read in
    full_size: dict[str, Any] = field(default_factory=dict)
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)  # further options, by task
    always: dict[str, Any] = field(default_factory=dict)
    places_images: bool = False  # whether the method translates or crops images as RAD does


def of_group(options: dict[str, Any], group: str) -> dict[str, Any]:
    """Returns the options of one group, such as ``sac``, by their names within it."""
    return {name.removeprefix(f"{group}."): value for name, value in options.items() if name.startswith(f"{group}.")}


class MethodSpec(NamedTuple):
    """The arguments from which a method's module builds its ``Method``."""

    name: str
    augment: AugmentConfig
    image_size: int  # height = width as rendered, pixels

    def refuse_augmentation(self) -> None:
        """Checks the options of a method without an augmentation.

        Raises:
          ConfigError: an augmentation or a size is given.
        """
        if self.augment.kind not in ("auto", "none"):
            raise ConfigError(f"{self.name} uses no augmentation; drop --augment.kind {self.augment.kind} or use rad")
        self._refuse_size()

    def refuse_other_augmentation(self) -> None:
        """Checks the options of a method with a fixed augmentation.

        Raises:
          ConfigError: another augmentation or a size is given.
        """
        if self.augment.kind != "auto":
            raise ConfigError(f"{self.name} brings its own augmentation; drop --augment.kind {self.augment.kind}")
        self._refuse_size()

    def _refuse_size(self) -> None:
        if self.augment.size is not None:
            raise ConfigError(f"{self.name} keeps the images' size; drop --augment.size {self.augment.size}")
