"""Reacher: a two-link arm in the plane brings its tip to a target that moves from episode to episode."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.
from __future__ import annotations

import jax
import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.dmc.common import random_joints
from covr_jax.envs.physics import Physics
from covr_jax.envs.task import Task

_TARGET, _FINGER = 6, 9  # geom ids
_TARGET_RADIUS = 0.05  # m


def _prepare(model: mujoco.MjModel) -> None:
    model.geom_size[_TARGET, 0] = _TARGET_RADIUS


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """Both joints uniform in their limits, the unlimited one in [-pi, pi], at rest."""
    return random_joints(key, physics.model), jnp.zeros(physics.model.nv)


def _goal(key: PRNGKeyArray, model: mjx.Model) -> Float[Array, " 2"]:
    """Target (x, y), m: angle uniform, radius uniform in [0.05, 0.2]."""
    del model
    angle_key, radius_key = jax.random.split(key)
    angle = jax.random.uniform(angle_key, (), maxval=2.0 * jnp.pi)
    radius = jax.random.uniform(radius_key, (), minval=0.05, maxval=0.2)
    return radius * jnp.stack([jnp.sin(angle), jnp.cos(angle)])


def _set_goal(data: mjx.Data, goal: Float[Array, " 2"]) -> mjx.Data:
    """Moves the target's geom; the target collides with nothing, so no other quantity depends on it."""
    return data.replace(geom_xpos=data.geom_xpos.at[_TARGET, :2].set(goal))


def _to_target(data: mjx.Data) -> Float[Array, " 2"]:
    return data.geom_xpos[_TARGET, :2] - data.geom_xpos[_FINGER, :2]


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 6"]:
    """Position (shoulder, wrist), to_target (x, y), velocity (2)."""
    del model
    return jnp.concatenate([data.qpos, _to_target(data), data.qvel])


def _reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
    """1 while the tip's sphere touches the target's."""
    reach = model.geom_size[_TARGET, 0] + model.geom_size[_FINGER, 0]
    distance = jnp.linalg.norm(_to_target(data))
    return jnp.where(distance <= reach, 1.0, 0.0)


EASY = Task(
    name="reacher_easy",
    xml="reacher.xml",
    control_timestep=0.02,
    action_repeat=4,
    learning_rate=1e-3,
    augmentation="translate",
    init=_init,
    observation=_observation,
    reward=_reward,
    time_limit=20.0,
    prepare=_prepare,
    goal=_goal,
    set_goal=_set_goal,
)
