"""The methods of the paper's tables by name; a new one is a file beside these and a line here."""

from __future__ import annotations

from types import ModuleType

from covr_jax.agents.method import Method
from covr_jax.agents.methods import curl, deepmdp, dgc_like, drq, drqv2, mlr, rad, resact, sac, spr, svea, taco
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.config import AugmentConfig, ConfigError

_MODULES = {
    "sac": sac,
    "rad": rad,
    "drq": drq,
    "drqv2": drqv2,
    "deepmdp": deepmdp,
    "curl": curl,
    "svea": svea,
    "resact": resact,
    "taco": taco,
    "spr": spr,
    "mlr": mlr,
    "dgc_like": dgc_like,
}
METHODS = tuple(_MODULES)
_PLACED = ("rad", "curl", "resact", "spr", "mlr")  # methods on RAD's images


def _module(name: str) -> ModuleType:
    if name not in _MODULES:
        raise ConfigError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return _MODULES[name]


def make_method(name: str, augment: AugmentConfig, image_size: int, task_default: str) -> Method:
    """Builds the method of a name.

    Args:
      name: one of METHODS.
      augment: ``kind`` and ``size`` of the augmentation.
      image_size: as rendered, pixels.
      task_default: RAD's kind for the task, "translate" or "crop".

    Raises:
      ConfigError: unknown method, an augmentation that it does not take, or a size that does not fit.
    """
    augment = resolve_augmentation(name, augment, image_size, task_default)
    return _module(name).make(MethodSpec(name, augment, image_size))


def resolve_augmentation(name: str, augment: AugmentConfig, image_size: int, task_default: str) -> AugmentConfig:
    """Returns the kind and size that a method uses where they are left open ("auto", None).

    Methods that do not place images as RAD does keep "auto" and None.

    Args:
      name: one of METHODS.
      augment: kind and size as given.
      image_size: height = width as rendered, pixels.
      task_default: RAD's kind for the task, "translate" or "crop".

    Raises:
      ConfigError: unknown method.
    """
    published = _module(name).SETTINGS.augment
    if name not in _PLACED:
        return augment
    kind = published.get("kind", task_default) if augment.kind == "auto" else augment.kind
    size = augment.size
    if size is None and kind in rad.SIZE_FACTORS:
        size = round(image_size * rad.SIZE_FACTORS[kind])
    return AugmentConfig(kind, size)


def published_hyperparameters(name: str) -> PublishedHyperparameters:
    """What the method's authors publish with it. Raises ConfigError for an unknown name."""
    return _module(name).SETTINGS


__all__ = ["METHODS", "make_method", "published_hyperparameters", "resolve_augmentation"]
