"""Walker: a planar biped of seven bodies and six motors; stay upright and walk at 1 m/s, or run at 8 m/s."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.dmc.common import random_joints, subtree_velocity
from covr_jax.envs.physics import Physics
from covr_jax.envs.rewards import tolerance
from covr_jax.envs.task import Task

_TORSO = 1  # body id
_STAND_HEIGHT = 1.2  # of the torso, m


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """Joints uniform in their limits and the body at any pitch, at rest."""
    return random_joints(key, physics.model), jnp.zeros(physics.model.nv)


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 24"]:
    """Orientations (xx and xz of each of 7 bodies), torso height, velocity (9)."""
    del model
    orientations = data.xmat.reshape(-1, 9)[1:, jnp.array([0, 2])].ravel()
    return jnp.concatenate([orientations, data.xpos[_TORSO, 2:], data.qvel])


def _reward(speed: float) -> Callable[[mjx.Model, mjx.Data], Float[Array, ""]]:
    """(3 standing + upright) / 4 * (5 moving + 1) / 6."""

    def reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
        height, up = data.xpos[_TORSO, 2], data.xmat.reshape(-1, 9)[_TORSO, 8]
        standing = tolerance(height, (_STAND_HEIGHT, jnp.inf), margin=_STAND_HEIGHT / 2.0)
        upright = (1.0 + up) / 2.0
        moving = tolerance(
            subtree_velocity(model, data, _TORSO)[0],
            (speed, jnp.inf),
            margin=speed / 2.0,
            value_at_margin=0.5,
            sigmoid="linear",
        )
        return (3.0 * standing + upright) / 4.0 * (5.0 * moving + 1.0) / 6.0

    return reward


def _task(name: str, speed: float) -> Task:
    return Task(
        name=name,
        xml="walker.xml",
        control_timestep=0.025,
        action_repeat=2,
        learning_rate=1e-3,
        augmentation="crop",
        init=_init,
        observation=_observation,
        reward=_reward(speed),
        solver_iterations=(8, 16),
        time_limit=25.0,
    )


WALK = _task("walker_walk", 1.0)
RUN = _task("walker_run", 8.0)
