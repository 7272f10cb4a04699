"""The methods of the paper's tables by name. A new method is a module here and an entry in ``published``."""

from __future__ import annotations

import dataclasses
from importlib import import_module
from typing import TYPE_CHECKING

from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters, of_group
from covr_jax.agents.methods.published import METHODS, PUBLISHED, SIZE_FACTORS
from covr_jax.config import AugmentConfig, ConfigError

if TYPE_CHECKING:
    from covr_jax.agents.method import Method


def make_method(name: str, augment: AugmentConfig, image_size: int, task_default: str) -> Method:
    """Builds a method by name.

    Args:
      name: one of METHODS.
      augment: ``kind`` and ``size`` of the augmentation.
      image_size: height = width as rendered, pixels.
      task_default: RAD's kind for the task, "translate" or "crop".

    Raises:
      ConfigError: unknown method, an augmentation that the method does not take, or a size that does not fit.
    """
    augment = resolve_augmentation(name, augment, image_size, task_default)
    module = import_module(f"covr_jax.agents.methods.{name}")  # on first use: it imports JAX
    return module.make(MethodSpec(name, augment, image_size))


def resolve_augmentation(name: str, augment: AugmentConfig, image_size: int, task_default: str) -> AugmentConfig:
    """Returns the kind and size that a method uses where they are left open ("auto", None).

    Methods without RAD's augmentations keep "auto" and None.

    Args:
      name: one of METHODS.
      augment: kind and size as given.
      image_size: height = width as rendered, pixels.
      task_default: RAD's kind for the task, "translate" or "crop".

    Raises:
      ConfigError: unknown method.
    """
    published = published_hyperparameters(name)
    if not published.places_images:
        return augment
    kind = published.always.get("augment.kind", task_default) if augment.kind == "auto" else augment.kind
    size = augment.size
    if size is None and kind in SIZE_FACTORS:
        size = image_size if augment.center_crop is not None else round(image_size * SIZE_FACTORS[kind])
    return dataclasses.replace(augment, kind=kind, size=size)


def published_hyperparameters(name: str) -> PublishedHyperparameters:
    """Returns the hyperparameters that the method's authors publish.

    Raises:
      ConfigError: unknown method.
    """
    if name not in PUBLISHED:
        raise ConfigError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return PUBLISHED[name]


__all__ = ["METHODS", "make_method", "of_group", "published_hyperparameters", "resolve_augmentation"]
