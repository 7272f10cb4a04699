"""Cart-pole: a cart on a 3.6 m rail with an unactuated pole; one motor pushes the cart."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.physics import Physics
from covr_jax.envs.rewards import tolerance
from covr_jax.envs.task import Task

_POLE = 2  # body id of the pole: world, cart, pole_1


def _init(key: PRNGKeyArray, physics: Physics) -> tuple[Float[Array, " nq"], Float[Array, " nv"]]:
    """The pole hangs; position, angle and velocities get N(0, 0.01^2) noise."""
    position_key, velocity_key = jax.random.split(key)
    hanging = jnp.array([0.0, jnp.pi])
    qpos = hanging + 0.01 * jax.random.normal(position_key, (physics.model.nq,))
    return qpos, 0.01 * jax.random.normal(velocity_key, (physics.model.nv,))


def _observation(model: mjx.Model, data: mjx.Data) -> Float[Array, " 5"]:
    """Position (cart, pole zz, pole xz), velocity (cart, pole)."""
    del model
    pole = data.xmat[_POLE].reshape(3, 3)
    return jnp.concatenate([data.qpos[:1], pole[2, 2][None], pole[0, 2][None], data.qvel])


def _reward(model: mjx.Model, data: mjx.Data) -> Float[Array, ""]:
    """Upright * centred * small control * small velocity, each softened towards 1."""
    del model
    upright = (data.xmat[_POLE].reshape(3, 3)[2, 2] + 1.0) / 2.0
    centered = (1.0 + tolerance(data.qpos[0], margin=2.0)) / 2.0
    small_control = (4.0 + tolerance(data.ctrl[0], margin=1.0, value_at_margin=0.0, sigmoid="quadratic")) / 5.0
    small_velocity = (1.0 + tolerance(data.qvel[1], margin=5.0)) / 2.0
    return upright * small_control * small_velocity * centered


SWINGUP = Task(
    name="cartpole_swingup",
    xml="cartpole.xml",
    control_timestep=0.01,
    action_repeat=8,
    learning_rate=1e-3,
    augmentation="translate",
    init=_init,
    observation=_observation,
    reward=_reward,
)
