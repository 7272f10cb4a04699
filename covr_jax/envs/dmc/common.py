"""What several domains share. Functions of one world; ``data`` has kinematics and velocities as of its qpos, qvel."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from mujoco import mjx

from covr_jax.types import Array

_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)
_ATTEMPTS = 1000  # as often does the suite draw before it gives up


def random_joints(key: Array, model: mjx.Model) -> Array:
    """qpos[nq] of a model of hinges and slides: uniform in a joint's limits, an unlimited hinge in [-pi, pi].

    An unlimited slide stays where the model puts it. The key is consumed.
    """
    kind, limited = np.asarray(model.jnt_type), np.asarray(model.jnt_limited).astype(bool)
    if not np.isin(kind, (_HINGE, _SLIDE)).all():
        raise ValueError("random_joints knows hinge and slide joints only")
    free = ~limited & (kind == _SLIDE)
    low, high = model.jnt_range[:, 0], model.jnt_range[:, 1]
    low, high = jnp.where(limited, low, -jnp.pi), jnp.where(limited, high, jnp.pi)
    drawn = low + (high - low) * jax.random.uniform(key, (model.njnt,), low.dtype)
    return jnp.where(free, model.qpos0, drawn)


def without_contact(key: Array, model: mjx.Model, draw: Callable[[Array], Array]) -> Array:
    """The first of ``draw(key) -> qpos[nq]`` in which nothing touches, as in the suite; the key is consumed.

    After 1000 draws, where the suite would stop with an error, the last one stands.
    """

    def touches(qpos: Array) -> Array:
        data = mjx.make_data(model).replace(qpos=qpos)
        data = mjx.collision(model, mjx.com_pos(model, mjx.kinematics(model, data)))
        return (data._impl.contact.dist < 0.0).any()

    def again(carry: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        attempt, key, _ = carry
        key, draw_key = jax.random.split(key)
        return attempt + 1, key, draw(draw_key)

    def unfit(carry: tuple[Array, Array, Array]) -> Array:
        attempt, _, qpos = carry
        return touches(qpos) & (attempt < _ATTEMPTS)

    return jax.lax.while_loop(unfit, again, again((jnp.zeros((), jnp.int32), key, model.qpos0)))[2]


def subtree_velocity(model: mjx.Model, data: mjx.Data, body: int) -> Array:
    """Velocity [3] of the centre of mass of a root body's tree, m/s: what its ``subtreelinvel`` sensor reads."""
    members = np.asarray(model.body_rootid) == body
    spin, centre_velocity = data.cvel[:, :3], data.cvel[:, 3:]  # of each body, at the tree's centre of mass
    lever = data.xipos - data.subtree_com[body]
    velocity = centre_velocity + jnp.cross(spin, lever)
    mass = jnp.where(members, model.body_mass, 0.0)
    return mass @ velocity / mass.sum()
