"""Ids of the tasks for ``gymnasium.make`` and ``make_vec``: ``covr_jax/cartpole_swingup-v0`` and so on.

Importing this module registers them; gymnasium 1.0 and later find no ids by themselves. Nothing else is imported before
an environment is made. In one go: ``gymnasium.make("covr_jax.envs.interop.gymnasium_ids:covr_jax/walker_walk-v0")``.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import gymnasium
from gymnasium.envs.registration import EnvSpec

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


def _id(task: str) -> str:
    return f"covr_jax/{task}-v0"


def env_spec(task: str, **options: Any) -> EnvSpec | None:
    """Returns what gymnasium makes a task's environment from; None for tasks without an id.

    Args:
      task: its name.
      **options: JSON-able ones of ``GymEnv``.
    """
    if task not in TASKS:
        return None
    spec = gymnasium.spec(_id(task))
    return dataclasses.replace(spec, kwargs=spec.kwargs | options)


def register_ids() -> None:
    """Makes the ids known to gymnasium; once is enough."""
    for task in TASKS:
        if (name := _id(task)) not in gymnasium.registry:
            gymnasium.register(
                name,
                entry_point=f"{_MODULE}:GymEnv",
                vector_entry_point=f"{_MODULE}:GymVectorEnv",
                kwargs={"task": task},
            )


register_ids()
