"""Pixel agents as a library: ``make_learner`` gives pure ``init / act / update``; imports no CLI, Torch or MuJoCo.

Names are imported on first use: who reads the table of methods alone does not wait for JAX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covr_jax.agents.learner import Learner, LearnerState, make_learner
    from covr_jax.agents.method import Augmentation, Auxiliary, AuxiliaryParams, Method, Views
    from covr_jax.agents.methods import METHODS, make_method

__all__ = [
    "METHODS",
    "Augmentation",
    "Auxiliary",
    "AuxiliaryParams",
    "Learner",
    "LearnerState",
    "Method",
    "Views",
    "make_learner",
    "make_method",
]
_MODULES = {
    "learner": ("Learner", "LearnerState", "make_learner"),
    "method": ("Augmentation", "Auxiliary", "AuxiliaryParams", "Method", "Views"),
    "methods": ("METHODS", "make_method"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"covr_jax.agents.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
