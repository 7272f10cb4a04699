"""ResAct (Liu et al. 2025): DeepMDP on RAD's images, with difference features and residual actions.

Two separate convolution stacks read o_t and o_{t-1}; their features are subtracted (the paper's observation
difference). The actor reads the previous action and adds to it: a = tanh(a_{t-1} + mu + sigma noise).
Differences from the authors' code: o_{t-1} is the stack one frame older, so an observation holds one frame more; at an
episode's first step both stacks show the same frame, where theirs has zeros for o_{t-1}; 1,000 random steps as in the
other methods, where their cheetah script for a million steps has 10,000.
"""

from __future__ import annotations

from functools import partial

from covr_jax.agents.method import Method
from covr_jax.agents.methods.deepmdp import latent_model
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.methods.rad import rad_augmentation
from covr_jax.agents.networks import make_networks


def make(spec: MethodSpec) -> Method:
    """Returns SAC with difference features, residual actions and a latent model, on translated images by default."""
    return Method(
        rad_augmentation(spec),
        networks=partial(make_networks, frame_diff=True),
        auxiliary=latent_model,
        residual=True,
        history=1,
    )
