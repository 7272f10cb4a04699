"""Pixel agents as a library: ``make_learner`` gives pure ``init / act / update``; imports no CLI, Torch or MuJoCo."""

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
