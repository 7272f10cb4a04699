"""Cheetah: a planar runner of seven bodies and six motors; run forward as fast as 10 m/s."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.dmc.common import random_joints, subtree_velocity
from covr_jax.envs.physics import Physics
from covr_jax.envs.rewards import tolerance
from covr_jax.envs.task import Task

_TORSO = 1  # body id
_ROOT_JOINTS = 3  # rootx, rootz, rooty: unlimited, they start at the model's qpos0
_SETTLE_STEPS = 200  # physics steps without control before an episode
_RUN_SPEED = 10.0  # m/s


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """Leg joints uniform in their limits; then the body falls and settles for 2 s.

    dm_control computes forces at the end of a step and at a reset, so its first step moves the drawn pose with the
    accelerations of qpos0; without this the distribution of the starts is visibly different.
    """
    drawn = random_joints(key, physics.model).at[:_ROOT_JOINTS].set(physics.model.qpos0[:_ROOT_JOINTS])
    return physics.settle(drawn - physics.model.qpos0, _SETTLE_STEPS)


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 17"]:
    """Position without the horizontal one (8), velocity (9)."""
    del model
    return jnp.concatenate([data.qpos[1:], data.qvel])


def _reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
    """Forward speed of the centre of mass as a fraction of 10 m/s."""
    speed = subtree_velocity(model, data, _TORSO)[0]
    return tolerance(speed, (_RUN_SPEED, jnp.inf), margin=_RUN_SPEED, value_at_margin=0.0, sigmoid="linear")


RUN = Task(
    name="cheetah_run",
    xml="cheetah.xml",
    control_timestep=0.01,
    action_repeat=4,
    learning_rate=2e-4,
    augmentation="translate",
    init=_init,
    observation=_observation,
    reward=_reward,
    solver_iterations=(8, 16),
)
