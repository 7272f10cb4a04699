"""Ids of the tasks for ``gymnasium.make`` and ``make_vec``: ``covr_jax/cartpole_swingup-v0`` and so on.

Importing this module registers them; gymnasium 1.0 and later find no ids by themselves. Nothing else is imported before
an environment is made. In one go: ``gymnasium.make("covr_jax.envs.interop.gymnasium_ids:covr_jax/walker_walk-v0")``.
"""

from __future__ import annotations

import gymnasium

TASKS = (
    "ball_in_cup_catch",
    "cartpole_swingup",
    "cheetah_run",
    "finger_spin",
    "hopper_hop",
    "pendulum_swingup",
    "reacher_easy",
    "walker_run",
    "walker_walk",
)
_MODULE = "covr_jax.envs.interop.as_gymnasium"


def register_ids() -> None:
    """Makes the ids known to gymnasium; once is enough."""
    for task in TASKS:
        if (name := f"covr_jax/{task}-v0") not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=f"{_MODULE}:GymEnv",
                vector_entry_point=f"{_MODULE}:GymVectorEnv",
                kwargs={"task": task},
            )


register_ids()
