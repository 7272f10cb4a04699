"""Functions that several domains share, of one env; ``data`` has kinematics and velocities as of its qpos, qvel."""

# pyright: reportAttributeAccessIssue=false
# mujoco's names come from compiled modules without stubs.
from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from mujoco import mjx

from covr_jax.envs.physics import Physics

_HINGE, _SLIDE = int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)


def random_joints(key: PRNGKeyArray, model: mjx.Model) -> Float[Array, " nq"]:
    """Draws qpos of a model of hinges and slides: uniform in a joint's limits, an unlimited hinge in [-pi, pi].

    Args:
      key: consumed.
      model: a model without other joints.

    Returns:
      Joint positions, rad or m; an unlimited slide keeps the model's qpos0.

    Raises:
      ValueError: the model has a free or a ball joint.
    """
    kind, limited = np.asarray(model.jnt_type), np.asarray(model.jnt_limited).astype(bool)
    if not np.isin(kind, (_HINGE, _SLIDE)).all():
        raise ValueError("random_joints knows hinge and slide joints only")
    free = ~limited & (kind == _SLIDE)
    low, high = model.jnt_range[:, 0], model.jnt_range[:, 1]
    low, high = jnp.where(limited, low, -jnp.pi), jnp.where(limited, high, jnp.pi)
    drawn = low + (high - low) * jax.random.uniform(key, (model.njnt,), low.dtype)
    return jnp.where(free, model.qpos0, drawn)


def without_contact(
    key: PRNGKeyArray, physics: Physics, draw: Callable[[PRNGKeyArray], Float[Array, " nq"]]
) -> Float[Array, " nq"]:
    """Draws positions until no two geoms touch, by rejection.

    The suite does so without a limit in ball_in_cup. In finger it raises an error after 1000 draws, which compiled code
    cannot do; one draw in ten touches there, so the chance of that is 1e-1000.

    Args:
      key: consumed.
      physics: of the task.
      draw: draws qpos[nq] from a key.

    Returns:
      The first positions without contact.
    """

    def redraw(carry: tuple[Array, Array]) -> tuple[Array, Array]:
        key, draw_key = jax.random.split(carry[0])
        return key, draw(draw_key)

    start = redraw((key, physics.model.qpos0))
    return jax.lax.while_loop(lambda carry: physics.touches(carry[1]), redraw, start)[1]


def subtree_velocity(model: mjx.Model, data: mjx.Data, body: int) -> Float[Array, " 3"]:
    """Returns the velocity of the centre of mass of a root body's tree, m/s, as its ``subtreelinvel`` sensor reads."""
    members = np.asarray(model.body_rootid) == body
    spin, centre_velocity = data.cvel[:, :3], data.cvel[:, 3:]  # of each body, at the tree's centre of mass
    lever = data.xipos - data.subtree_com[body]
    velocity = centre_velocity + jnp.cross(spin, lever)
    mass = jnp.where(members, model.body_mass, 0.0)
    return mass @ velocity / mass.sum()
