"""Ball in cup: swing a ball on a string up and catch it in the cup that two motors move in the plane."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.dmc.common import without_contact
from covr_jax.envs.physics import Physics
from covr_jax.envs.task import Task

_BALL, _BALL_GEOM = 2, 6  # body id, geom id
_TARGET_SITE = 1


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """The cup at its default position, the ball uniform in a box around it without contact, at rest."""

    def draw(key: PRNGKeyArray) -> Float[Array, " nq"]:
        ball = jax.random.uniform(key, (2,), minval=jnp.array([-0.2, 0.2]), maxval=jnp.array([0.2, 0.5]))
        return physics.model.qpos0.at[2:].set(ball)

    return without_contact(key, physics, draw), jnp.zeros(physics.model.nv)


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 8"]:
    """Position (cup x, z, ball x, z), velocity (4)."""
    del model
    return jnp.concatenate([data.qpos, data.qvel])


def _reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
    """1 while the whole ball is inside the box in the cup."""
    offset = jnp.abs(data.site_xpos[_TARGET_SITE] - data.xpos[_BALL])
    room = model.site_size[_TARGET_SITE] - model.geom_size[_BALL_GEOM, 0]
    inside = (offset[0] < room[0]) & (offset[2] < room[2])
    return jnp.where(inside, 1.0, 0.0)


CATCH = Task(
    name="ball_in_cup_catch",
    xml="ball_in_cup.xml",
    control_timestep=0.02,
    action_repeat=4,
    learning_rate=1e-3,
    augmentation="translate",
    init=_init,
    observation=_observation,
    reward=_reward,
    solver_iterations=(8, 16),
    time_limit=20.0,
)
