"""MJX on NVIDIA Warp: physics in kernels of its own, called from compiled programs."""

from __future__ import annotations

from mujoco import mjx

from covr_jax.envs.mjx_physics import MJXPhysics
from covr_jax.envs.task import Task
from covr_jax.runtime.nvidia_warp import WarpError, open_warp


class WarpPhysics(MJXPhysics):
    """``MJXPhysics`` whose steps are MuJoCo Warp's, in float32, with the model's own solver iterations.

    Only bodies in contact are slow in MJX's own engine; starts, rewards, observations and pictures stay its programs.

    Args:
      task: the task.
      num_envs: E, the most envs of a call: the contacts of all of them share one array.

    Raises:
      ValueError: Warp cannot be used here.
    """

    def __init__(self, task: Task, num_envs: int):
        super().__init__(task)
        try:
            open_warp()
        except WarpError as error:
            raise ValueError(f"physics warp: {error}") from error
        contacts, rows = (len(x) for x in (self._empty._impl.contact.dist, self._empty._impl.efc_J))
        # MJX's own engine has a place for each contact that can be; pairs of boxes touch in more points in Warp.
        self._simulated = mjx.put_model(self.mj_model, impl="warp")
        self._empty = mjx.make_data(
            self.mj_model, impl="warp", naconmax=2 * num_envs * max(contacts, 1), njmax=2 * max(rows, 1)
        )

    def _readable(self, data: mjx.Data) -> mjx.Data:
        fields = {name: getattr(data, name) for name in ("qpos", "qvel", "ctrl", "sensordata")}
        return mjx.make_data(self.mj_model).replace(**fields)
