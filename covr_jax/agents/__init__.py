"""Pixel agents as a library: ``make_learner`` gives pure ``init / act / update``; imports no CLI, Torch or MuJoCo.

Names are imported on first use: who reads the table of methods alone does not wait for JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covr_jax.lazy import lazy_names

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
__getattr__ = lazy_names(
    __name__,
    {
        "learner": ("Learner", "LearnerState", "make_learner"),
        "method": ("Augmentation", "Auxiliary", "AuxiliaryParams", "Method", "Views"),
        "methods": ("METHODS", "make_method"),
    },
)
