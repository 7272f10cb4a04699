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
from covr_jax.agents.methods.hyperparameters import MethodSpec, PublishedHyperparameters
from covr_jax.agents.networks import make_networks

deterministic_networks = partial(make_networks, squash=True, centre=True, stochastic=False)

_WALKER = {"sac.n_step": 1, "sac.batch_size": 512}
_MEDIUM = {"sac.noise_steps": 500_000}  # the authors' "medium" tasks; all others of the nine are "easy": the default
_TASKS = {
    "walker_walk": _WALKER,
    "walker_run": _WALKER | _MEDIUM,
    "cheetah_run": _MEDIUM,
    "reacher_easy": _MEDIUM,
    "hopper_hop": _MEDIUM,
}
HYPERPARAMETERS = PublishedHyperparameters(
    source="facebookresearch/drqv2: cfgs/config.yaml, cfgs/task",
    tasks=_TASKS,
    full_size={
        "env.image_size": 84,
        "sac.batch_size": 256,
        "sac.init_steps": 2000,
        "sac.steps_per_update": 2,
        "sac.critic_tau": 0.01,
        "sac.encoder_tau": 0.01,
    },
    # At ten times this rate, the actor's tanh saturates for good before the critics have learned anything.
    always={"sac.learning_rate": 1e-4, "sac.n_step": 3, "sac.torso_tau": 1.0, "sac.actor_update_every": 1},
)


def make(spec: MethodSpec) -> Method:
    """Returns DDPG with twin critics on one random shift."""
    spec.refuse_other_augmentation()
    return Method(
        random_shifts(spec.image_size),
        networks=deterministic_networks,
        policy=policies.noisy_deterministic,
    )
