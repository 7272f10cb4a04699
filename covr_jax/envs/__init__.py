"""Vectorised DMControl tasks on MJX: ``make(task, num_envs)``."""

from covr_jax.envs.vec_env import TASKS, EnvState, VecEnv, get_task, make

__all__ = ["TASKS", "EnvState", "VecEnv", "get_task", "make"]
