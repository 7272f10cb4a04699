"""Finger: two motors flick a free spinner; keep it turning faster than 15 rad/s."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.
from __future__ import annotations

from functools import partial

import jax.numpy as jnp
import mujoco
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.dmc.common import random_joints, without_contact
from covr_jax.envs.physics import Physics
from covr_jax.envs.task import Task

_SPINNER = 3  # body id
_TARGET_SITE, _TIP_SITE = 0, 3  # site ids
_HINGE = 2  # joint and dof id
_TOUCH = slice(14, 16)  # of sensordata: touchtop, touchbottom, N
_SPIN_VELOCITY = 15.0  # rad/s


def _prepare(model: mujoco.MjModel) -> None:
    """Hides the target and tip sites of the turning tasks and lowers the spinner's damping."""
    model.site_rgba[[_TARGET_SITE, _TIP_SITE], 3] = 0.0
    model.dof_damping[_HINGE] = 0.03


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """Joints uniform in their limits, the spinner at any angle, without contact, at rest."""
    return without_contact(key, physics, partial(random_joints, model=physics.model)), jnp.zeros(physics.model.nv)


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 9"]:
    """Position (proximal, distal, tip x and z from the hinge), velocity (3), touch (2, log(1 + N))."""
    del model
    tip = (data.site_xpos[_TIP_SITE] - data.xpos[_SPINNER])[jnp.array([0, 2])]
    return jnp.concatenate([data.qpos[:2], tip, data.qvel, jnp.log1p(data.sensordata[_TOUCH])])


def _reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
    """1 while the spinner turns fast enough in the negative direction."""
    del model
    return jnp.where(data.qvel[_HINGE] <= -_SPIN_VELOCITY, 1.0, 0.0)


SPIN = Task(
    name="finger_spin",
    xml="finger.xml",
    control_timestep=0.02,
    action_repeat=2,
    learning_rate=1e-3,
    augmentation="translate",
    init=_init,
    observation=_observation,
    reward=_reward,
    solver_iterations=(8, 16),
    time_limit=20.0,
    prepare=_prepare,
    touch=True,
    clear_starts=True,
)
