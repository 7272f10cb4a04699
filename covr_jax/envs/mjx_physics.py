"""MJX: physics as JAX programs, for accelerators. Letters: A action, G goal, S sensors."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float
from mujoco import mjx

from covr_jax.envs.physics import Physics, Stepped
from covr_jax.envs.task import Task


class MJXPhysics(Physics):
    """``Physics`` in float32 on any device, with the task's solver iterations."""

    def __init__(self, task: Task):
        super().__init__(task)
        if task.solver_iterations:
            newton, line_search = task.solver_iterations
            solver: Any = {"opt.iterations": newton, "opt.ls_iterations": line_search}
            self.model = cast(mjx.Model, self.model.tree_replace(solver))
        self._simulated, self._empty = self.model, mjx.make_data(self.mj_model, jax.local_devices()[0])

    def control_steps(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"],
        qacc_warmstart: Float[Array, " nv"],
        ctrl: Float[Array, " A"],
        goal: Float[Array, " G"] | None,
        count: int,
    ) -> Stepped:
        """As ``Physics.control_steps``."""
        start = self._empty.replace(qpos=qpos, qvel=qvel, ctrl=ctrl, qacc_warmstart=qacc_warmstart)

        def control_step(data: mjx.Data, _: None) -> tuple[mjx.Data, Array]:
            data, _ = jax.lax.scan(lambda d, _: (self._step(d), None), data, None, length=self.substeps)
            return data, self.task.reward(self.model, self._kinematics(self._readable(data), goal))

        data, rewards = jax.lax.scan(control_step, start, None, length=count)
        touch = data.sensordata if self.task.touch else None
        return (data.qpos, data.qvel, data.qacc_warmstart, touch), rewards.sum()

    def data(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"],
        ctrl: Float[Array, " A"],
        goal: Float[Array, " G"] | None,
        touch: Float[Array, " S"] | None,
        fields: dict[str, Array] | None = None,
    ) -> mjx.Data:
        """As ``Physics.data``."""
        del fields
        data = mjx.make_data(self.mj_model, jax.local_devices()[0]).replace(qpos=qpos, qvel=qvel, ctrl=ctrl)
        data = mjx.tendon(self.model, self._kinematics(data, goal))  # the renderer colours a taut tendon differently
        return data if touch is None else data.replace(sensordata=touch)

    def initial_touch(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> Float[Array, " S"] | None:
        """As ``Physics.initial_touch``."""
        if not self.task.touch:
            return None
        return mjx.forward(
            self.model, mjx.make_data(self.mj_model, jax.local_devices()[0]).replace(qpos=qpos, qvel=qvel)
        ).sensordata

    def touches(self, qpos: Float[Array, " nq"]) -> Bool[Array, ""]:
        """As ``Physics.touches``."""
        data = mjx.make_data(self.model, jax.local_devices()[0]).replace(qpos=qpos)
        data = mjx.collision(self.model, mjx.com_pos(self.model, mjx.kinematics(self.model, data)))
        return (data._impl.contact.dist < 0.0).any()

    def settle(self, move: Float[Array, " nq"], steps: int) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        """As ``Physics.settle``."""
        moves = jnp.zeros((steps, self.model.nq)).at[0].set(move)

        def step(data: mjx.Data, move: Float[Array, " nq"]) -> tuple[mjx.Data, None]:
            data = self._step(data)
            return data.replace(qpos=data.qpos + move), None

        data, _ = jax.lax.scan(step, self._empty, moves)
        return data.qpos, data.qvel

    def _step(self, data: mjx.Data) -> mjx.Data:
        return mjx.step(self._simulated, data)

    def _readable(self, data: mjx.Data) -> mjx.Data:
        """Data of a simulation as the functions of MJX's own engine take them."""
        return data

    def _kinematics(self, data: mjx.Data, goal: Float[Array, " G"] | None) -> mjx.Data:
        for stage in (mjx.kinematics, mjx.com_pos, mjx.camlight, mjx.com_vel):
            data = stage(self.model, data)
        return self._with_goal(data, goal)
