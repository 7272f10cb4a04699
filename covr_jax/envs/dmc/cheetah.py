"""Cheetah: a planar runner of seven bodies and six motors; run forward as fast as 10 m/s."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from mujoco import mjx

from covr_jax.envs.dmc.common import random_joints, subtree_velocity
from covr_jax.envs.rewards import tolerance
from covr_jax.envs.task import Task
from covr_jax.types import Array

_TORSO = 1  # body id
_ROOT_JOINTS = 3  # rootx, rootz, rooty: unlimited, they start where the model puts them
_SETTLE_STEPS = 200  # physics steps without control before an episode
_RUN_SPEED = 10.0  # m/s


def _init(key: Array, model: mjx.Model) -> tuple[Array, Array]:
    """Leg joints uniform in their limits; then the body falls and settles for 2 s."""
    qpos = random_joints(key, model).at[:_ROOT_JOINTS].set(model.qpos0[:_ROOT_JOINTS])
    data = mjx.make_data(model).replace(qpos=qpos)
    data, _ = jax.lax.scan(lambda d, _: (mjx.step(model, d), None), data, None, length=_SETTLE_STEPS)
    return data.qpos, data.qvel


def _observation(model: mjx.Model, data: mjx.Data) -> Array:
    """position without the horizontal one (8), velocity (9): f32[17]."""
    del model
    return jnp.concatenate([data.qpos[1:], data.qvel])


def _reward(model: mjx.Model, data: mjx.Data) -> Array:
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
