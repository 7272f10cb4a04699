"""Methods as compositions of the shared learner: each names its augmentation."""

from __future__ import annotations

from collections.abc import Callable

from covr_jax.agents.learner import Augmentation
from covr_jax.agents.methods.rad import random_crop, random_translate
from covr_jax.agents.methods.sac import no_augmentation
from covr_jax.config import AugmentConfig, ConfigError

METHODS = ("sac", "rad")


def make_augmentation(method: str, config: AugmentConfig, image_size: int, task_default: str) -> Augmentation:
    """The augmentation of a base method.

    Args:
      method: one of METHODS. config: ``kind`` and ``size``. task_default: RAD's kind for the task.

    Raises:
      ConfigError: unknown method, an augmentation asked of SAC, or a size that does not fit.
    """
    if method not in METHODS:
        raise ConfigError(f"unknown method {method!r}; choose from {', '.join(METHODS)}")
    if method == "sac":
        if config.kind not in ("auto", "none"):
            raise ConfigError(f"sac uses no augmentation; drop --augment.kind {config.kind} or use rad")
        return no_augmentation()
    kind = task_default if config.kind == "auto" else config.kind
    makers: dict[str, tuple[Callable[[int, int], Augmentation], float]] = {
        "translate": (random_translate, 1.08),
        "crop": (random_crop, 0.84),
    }
    if kind == "none":
        raise ConfigError("rad without an augmentation is sac; use --method sac or --base sac")
    maker, factor = makers[kind]
    try:
        return maker(image_size, config.size or round(image_size * factor))
    except ValueError as error:
        raise ConfigError(str(error)) from error


__all__ = ["METHODS", "make_augmentation", "no_augmentation", "random_crop", "random_translate"]
