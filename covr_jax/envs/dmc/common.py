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
    """The first of ``draw(key) -> qpos[nq]`` in which nothing touches; the key is consumed.

    It draws until one is found, as the suite does in ball_in_cup. In finger the suite stops with an error after 1000
    draws, which compiled code cannot do; one draw in ten touches there: a chance of 1e-1000.
    """

    def touches(qpos: Array) -> Array:
        data = mjx.make_data(model).replace(qpos=qpos)
        data = mjx.collision(model, mjx.com_pos(model, mjx.kinematics(model, data)))
        return (data._impl.contact.dist < 0.0).any()

    def again(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        key, draw_key = jax.random.split(carry[0])
        return key, draw(draw_key)

    return jax.lax.while_loop(lambda carry: touches(carry[1]), again, again((key, model.qpos0)))[1]


def subtree_velocity(model: mjx.Model, data: mjx.Data, body: int) -> Array:
    """Velocity [3] of the centre of mass of a root body's tree, m/s: what its ``subtreelinvel`` sensor reads."""
    members = np.asarray(model.body_rootid) == body
    spin, centre_velocity = data.cvel[:, :3], data.cvel[:, 3:]  # of each body, at the tree's centre of mass
    lever = data.xipos - data.subtree_com[body]
    velocity = centre_velocity + jnp.cross(spin, lever)
    mass = jnp.where(members, model.body_mass, 0.0)
    return mass @ velocity / mass.sum()
