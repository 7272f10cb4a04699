"""Vectorised tasks, ``make(task, num_envs)``: DMControl on MJX, and simulators on the host.

Names are imported on first use: a child process that runs one simulator does not import MJX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covr_jax.lazy import lazy_names

if TYPE_CHECKING:
    from covr_jax.envs.host_env import HostState, HostTask, HostVecEnv
    from covr_jax.envs.registry import HOST_TASKS, TASKS, find_task, get_task, make, suite_task
    from covr_jax.envs.vec_env import EnvState, VecEnv

__all__ = [
    "HOST_TASKS",
    "TASKS",
    "EnvState",
    "HostState",
    "HostTask",
    "HostVecEnv",
    "VecEnv",
    "find_task",
    "get_task",
    "make",
    "suite_task",
]
__getattr__ = lazy_names(
    __name__,
    {
        "host_env": ("HostState", "HostTask", "HostVecEnv"),
        "registry": ("HOST_TASKS", "TASKS", "find_task", "get_task", "make", "suite_task"),
        "vec_env": ("EnvState", "VecEnv"),
    },
)
