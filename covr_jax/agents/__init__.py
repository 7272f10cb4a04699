"""Pixel SAC as a library: ``make_learner`` gives pure ``init / act / update``; no CLI, Torch or MuJoCo is imported."""

from covr_jax.agents.learner import Augmentation, Learner, LearnerState, make_learner
from covr_jax.agents.methods import METHODS, make_augmentation

__all__ = ["METHODS", "Augmentation", "Learner", "LearnerState", "make_augmentation", "make_learner"]
