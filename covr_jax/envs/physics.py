"""MJX physics of one env (no batch axis); ``VecEnv`` vmaps it. Letters: A action, G goal, S sensors."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.task import Task


class Physics:
    """The model of a task and the pure functions that step it and complete its data.

    Attributes:
      task: the task.
      mj_model: its MuJoCo model.
      model: the same for MJX, with the task's solver iterations.
      control_range: f32[A,2], lower and upper bound of each actuator.
    """

    def __init__(self, task: Task):
        self.task = task
        self.mj_model = task.load_model()
        self.model: mjx.Model = mjx.put_model(self.mj_model)
        if task.solver_iterations:
            newton, line_search = task.solver_iterations
            solver: Any = {"opt.iterations": newton, "opt.ls_iterations": line_search}
            self.model = cast(mjx.Model, self.model.tree_replace(solver))
        self.control_range = jnp.asarray(self.mj_model.actuator_ctrlrange, jnp.result_type(float))
        self._substeps = round(task.control_timestep / self.mj_model.opt.timestep)

    def draw_start(
        self, key: PRNGKeyArray
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"], Float[Array, " G"] | None]:
        """Draws qpos, qvel and, where the task has one, the goal of a new episode."""
        goal = self.task.goal(jax.random.fold_in(key, 1), self.model) if self.task.goal else None
        return *self.task.init(key, self.model), goal

    def scale_action(self, action: Float[Array | np.ndarray, "*batch A"]) -> Float[Array, "*batch A"]:
        """Clips actions to [-1, 1] and maps them to the actuators' range."""
        low, high = self.control_range[:, 0], self.control_range[:, 1]
        return low + 0.5 * (jnp.clip(action, -1.0, 1.0).astype(low.dtype) + 1.0) * (high - low)

    def control_steps(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"],
        qacc_warmstart: Float[Array, " nv"],
        ctrl: Float[Array, " A"],
        goal: Float[Array, " G"] | None,
        count: int,
    ) -> tuple[
        tuple[Float[Array, " nq"], Float[Array, " nv"], Float[Array, " nv"], Float[Array, " S"] | None],
        Float[Array, ""],
    ]:
        """Simulates some control steps with a constant control.

        Args:
          qpos: joint positions, rad or m.
          qvel: joint velocities, rad/s or m/s.
          qacc_warmstart: the constraint solver's starting point.
          ctrl: control in actuator units.
          goal: the goal of the episode, or None.
          count: number of control steps.

        Returns:
          (qpos, qvel, qacc_warmstart, touch sensors or None) after the last step, and the sum of the rewards.
        """
        start = mjx.make_data(self.mj_model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl, qacc_warmstart=qacc_warmstart)

        def control_step(data: mjx.Data, _: None) -> tuple[mjx.Data, Array]:
            data, _ = jax.lax.scan(lambda d, _: (mjx.step(self.model, d), None), data, None, length=self._substeps)
            data = self._kinematics(data, goal)
            return data, self.task.reward(self.model, data)

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
    ) -> mjx.Data:
        """Returns data with kinematics, centres of mass, velocities, tendons and cameras as of qpos and qvel."""
        data = mjx.make_data(self.mj_model).replace(qpos=qpos, qvel=qvel, ctrl=ctrl)
        data = mjx.tendon(self.model, self._kinematics(data, goal))  # the renderer colours a taut tendon differently
        return data if touch is None else data.replace(sensordata=touch)

    def initial_touch(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> Float[Array, " S"] | None:
        """Returns the sensors of a state from which nothing was simulated yet; None if the task reads no sensors."""
        if not self.task.touch:
            return None
        return mjx.forward(self.model, mjx.make_data(self.mj_model).replace(qpos=qpos, qvel=qvel)).sensordata

    def _kinematics(self, data: mjx.Data, goal: Float[Array, " G"] | None) -> mjx.Data:
        for stage in (mjx.kinematics, mjx.com_pos, mjx.camlight, mjx.com_vel):
            data = stage(self.model, data)
        return data if self.task.set_goal is None or goal is None else self.task.set_goal(data, goal)
