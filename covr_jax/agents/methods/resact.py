"""ResAct (Liu et al. 2025): DeepMDP on RAD's images, with features of change and actions as changes.

Two convolution stacks of their own read o_t and o_{t-1}; their features are subtracted (the paper's observation
difference). The actor reads the action before and adds to it: a = tanh(a_{t-1} + mu + sigma noise).
Ours: o_{t-1} is the stack one frame older, so an observation holds one frame more; at an episode's first step both
stacks show the same frame, where the authors' code has zeros for o_{t-1}; 1,000 random steps as everywhere, where their
cheetah script for a million steps has 10,000; the auxiliary loss moves the encoder as fast as its heads.
"""

from __future__ import annotations

from functools import partial

from covr_jax.agents.method import Method
from covr_jax.agents.methods.deepmdp import latent_model
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.methods.rad import placement
from covr_jax.agents.networks import make_networks

SETTINGS = PublishedHyperparameters(
    sac={"feature_dim": 64, "auxiliary_learning_rate": 1e-3}, augment={"kind": "translate"}
)


def make(request: MethodSpec) -> Method:
    """SAC with difference features, residual actions and a latent model; translated images unless asked otherwise."""
    return Method(
        placement(request),
        networks=partial(make_networks, frame_diff=True),
        auxiliary=latent_model,
        residual=True,
        history=1,
    )
