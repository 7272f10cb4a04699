"""Physics of one env (no batch axis), which ``VecEnv`` vmaps: what the engines share. Letters: A action, G goal."""

from __future__ import annotations

import abc
from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.config import PhysicsEngine
from covr_jax.envs.task import Task

PHYSICS = get_args(PhysicsEngine)


# (qpos, qvel, qacc_warmstart, touch sensors or None) and the sum of the rewards
Stepped = tuple[
    tuple[Float[Array, " nq"], Float[Array, " nv"], Float[Array, " nv"], Float[Array, " S"] | None], Float[Array, ""]
]


class Physics(abc.ABC):
    """The model of a task and the functions that step it and complete its data; pure and jit-able in all engines.

    Letters of shapes: S sensors.

    Attributes:
      task: the task.
      mj_model: its MuJoCo model.
      model: the same for MJX.
      control_range: f32[A,2], lower and upper bound of each actuator.
      substeps: physics steps per control step.
    """

    def __init__(self, task: Task):
        self.task = task
        self.mj_model = task.load_model()
        self.model: mjx.Model = mjx.put_model(self.mj_model, jax.local_devices()[0])  # of several processes, an own one
        self.control_range = jnp.asarray(self.mj_model.actuator_ctrlrange, jnp.result_type(float))
        self.substeps = round(task.control_timestep / self.mj_model.opt.timestep)

    def draw_start(
        self, key: PRNGKeyArray
    ) -> tuple[Float[Array, " nq"], Float[Array, " nv"], Float[Array, " G"] | None]:
        """Draws qpos, qvel and, where the task has one, the goal of a new episode."""
        goal = self.task.goal(jax.random.fold_in(key, 1), self.model) if self.task.goal else None
        return *self.task.init(key, self), goal

    def scale_action(self, action: Float[Array | np.ndarray, "*batch A"]) -> Float[Array, "*batch A"]:
        """Clips actions to [-1, 1] and maps them to the actuators' range."""
        low, high = self.control_range[:, 0], self.control_range[:, 1]
        return low + 0.5 * (jnp.clip(action, -1.0, 1.0).astype(low.dtype) + 1.0) * (high - low)

    @abc.abstractmethod
    def control_steps(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"],
        qacc_warmstart: Float[Array, " nv"],
        ctrl: Float[Array, " A"],
        goal: Float[Array, " G"] | None,
        count: int,
    ) -> Stepped:
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

    @abc.abstractmethod
    def data(
        self,
        qpos: Float[Array, " nq"],
        qvel: Float[Array, " nv"],
        ctrl: Float[Array, " A"],
        goal: Float[Array, " G"] | None,
        touch: Float[Array, " S"] | None,
        fields: dict[str, Array] | None = None,
    ) -> mjx.Data:
        """Returns data with kinematics, centres of mass, velocities, tendons and cameras as of qpos and qvel.

        ``fields`` are what ``host_fields`` returned for the same state; None: they are computed here.
        """

    def host_fields(
        self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"], ctrl: Float[Array, " A"]
    ) -> dict[str, Array] | None:
        """Returns the part of ``data`` that is computed on the host, or None.

        JAX's persistent cache takes no program that calls the host, so what is slow to compile leaves this to another.
        """
        del qpos, qvel, ctrl
        return None

    @abc.abstractmethod
    def initial_touch(self, qpos: Float[Array, " nq"], qvel: Float[Array, " nv"]) -> Float[Array, " S"] | None:
        """Returns the sensors of a state from which nothing was simulated yet; None if the task reads no sensors."""

    @abc.abstractmethod
    def touches(self, qpos: Float[Array, " nq"]) -> Bool[Array, ""]:
        """Whether any two geoms that collide touch at these positions."""

    @abc.abstractmethod
    def settle(self, move: Float[Array, " nq"], steps: int) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
        """Simulates physics steps from the model's default state without control; ``move`` is added after the first.

        Returns:
          qpos, qvel.
        """

    def _with_goal(self, data: mjx.Data, goal: Float[Array, " G"] | None) -> mjx.Data:
        return data if self.task.set_goal is None or goal is None else self.task.set_goal(data, goal)
