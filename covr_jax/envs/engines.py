"""Which engine simulates a task: MJX in compiled programs, its kernels on Warp, or C MuJoCo on the host's threads."""

from __future__ import annotations

from typing import Literal

from covr_jax import runtime
from covr_jax.envs.mjx_physics import MJXPhysics
from covr_jax.envs.mujoco_physics import MuJoCoPhysics
from covr_jax.envs.physics import PHYSICS
from covr_jax.envs.task import Task
from covr_jax.envs.warp_physics import WarpPhysics


def default_physics() -> Literal["mjx", "mujoco"]:
    """``mujoco`` where compiled programs run on the host's processors, else ``mjx``, which stays on the device."""
    return "mujoco" if runtime.on_cpu() else "mjx"


def make_physics(task: Task, name: str = "auto", num_envs: int = 1) -> MJXPhysics | MuJoCoPhysics:
    """The physics of a task by name, for ``num_envs`` envs.

    Raises:
      ValueError: an unknown name, or an engine that cannot be used here.
    """
    if name not in PHYSICS:
        raise ValueError(f"unknown physics {name!r}; choose from {', '.join(PHYSICS)}")
    name = default_physics() if name == "auto" else name
    return WarpPhysics(task, num_envs) if name == "warp" else {"mjx": MJXPhysics, "mujoco": MuJoCoPhysics}[name](task)
