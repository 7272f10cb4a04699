"""Hopper: a planar one-legged body with four motors; hop forward at 2 m/s without falling."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.dmc.common import random_joints, subtree_velocity
from covr_jax.envs.physics import Physics
from covr_jax.envs.rewards import tolerance
from covr_jax.envs.task import Task

_TORSO, _FOOT = 1, 5  # body ids
_TOUCH = slice(3, 5)  # of sensordata: toe, heel, N
_STAND_HEIGHT = 0.6  # of the torso over the foot, m
_HOP_SPEED = 2.0  # m/s


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """Joints uniform in their limits and the body at any pitch, at rest."""
    return random_joints(key, physics.model), jnp.zeros(physics.model.nv)


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 15"]:
    """Position without the horizontal one (6), velocity (7), touch (toe, heel, log(1 + N))."""
    del model
    return jnp.concatenate([data.qpos[1:], data.qvel, jnp.log1p(data.sensordata[_TOUCH])])


def _reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
    """Standing * hopping."""
    height = data.xipos[_TORSO, 2] - data.xipos[_FOOT, 2]
    standing = tolerance(height, (_STAND_HEIGHT, 2.0))
    hopping = tolerance(
        subtree_velocity(model, data, _TORSO)[0],
        (_HOP_SPEED, jnp.inf),
        margin=_HOP_SPEED / 2.0,
        value_at_margin=0.5,
        sigmoid="linear",
    )
    return standing * hopping


HOP = Task(
    name="hopper_hop",
    xml="hopper.xml",
    control_timestep=0.02,
    action_repeat=2,
    learning_rate=1e-3,
    augmentation="translate",
    init=_init,
    observation=_observation,
    reward=_reward,
    solver_iterations=(8, 16),
    time_limit=20.0,
    touch=True,
)
