"""Pendulum: one weak motor; swing up and hold within 8 degrees of upright."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.physics import Physics
from covr_jax.envs.rewards import tolerance
from covr_jax.envs.task import Task

_POLE = 1  # body id
_COSINE_BOUND = np.cos(np.deg2rad(8.0)).item()


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """Angle uniform in [-pi, pi], at rest."""
    return jax.random.uniform(key, (1,), minval=-jnp.pi, maxval=jnp.pi), jnp.zeros(physics.model.nv)


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 3"]:
    """Orientation (zz, xz), velocity (1)."""
    del model
    pole = data.xmat[_POLE].reshape(3, 3)
    return jnp.concatenate([pole[2, 2][None], pole[0, 2][None], data.qvel])


def _reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
    """1 within 8 degrees of upright."""
    del model
    return tolerance(data.xmat[_POLE].reshape(3, 3)[2, 2], (_COSINE_BOUND, 1.0))


SWINGUP = Task(
    name="pendulum_swingup",
    xml="pendulum.xml",
    control_timestep=0.02,
    action_repeat=2,
    learning_rate=1e-3,
    augmentation="translate",
    init=_init,
    observation=_observation,
    reward=_reward,
    time_limit=20.0,
)
