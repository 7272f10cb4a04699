"""DrQ-v2 (Yarats et al. 2021): deterministic policy gradient with exploration noise on a schedule, on shifted images.

y = R_n + gamma^n min_i Qbar_i(s_{t+n}, a') with a' = clip(mu(s_{t+n}) + clip(N(0, sigma), +-0.3)); the actor maximises
min_i Q_i(s, a) with the same noise. The convolutions have no target copy (``torso_tau`` 1). Differences from the
authors' code: sigma decreases with the agent steps of all environments together, from the first one on; the replay has
the config's size instead of 1e6; the action repeat is the task's; convolutions are initialised delta-orthogonal instead
of orthogonal.
"""

from __future__ import annotations

from functools import partial

from covr_jax.agents import policies
from covr_jax.agents.method import Method
from covr_jax.agents.methods.drq import random_shifts
from covr_jax.agents.methods.hyperparameters import MethodSpec
from covr_jax.agents.networks import make_networks

deterministic_networks = partial(make_networks, squash=True, centre=True, stochastic=False)


def make(spec: MethodSpec) -> Method:
    """Returns DDPG with twin critics on one random shift."""
    spec.refuse_other_augmentation()
    return Method(
        random_shifts(spec.image_size),
        networks=deterministic_networks,
        policy=policies.noisy_deterministic,
    )
