"""Vectorised tasks, ``make(task, num_envs)``: DMControl on MJX, and environments that run on the host.

The names are looked up when they are first used: a child process that runs one host environment needs no MJX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from covr_jax.envs.host_env import HostState, HostTask, HostVecEnv
    from covr_jax.envs.registry import HOST_TASKS, find_task, make
    from covr_jax.envs.vec_env import TASKS, EnvState, VecEnv, get_task

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
]
_HOMES = {
    "host_env": ("HostState", "HostTask", "HostVecEnv"),
    "registry": ("HOST_TASKS", "find_task", "make"),
    "vec_env": ("TASKS", "EnvState", "VecEnv", "get_task"),
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(f"covr_jax.envs.{home}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
