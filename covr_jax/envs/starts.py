"""Start states of episodes: given by the caller, or drawn. E envs."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from covr_jax.checks import check_shape
from covr_jax.envs.physics import Physics


def given_or_drawn(task: str, name: str, given: Any, drawn: Array | None) -> Any:
    """Returns a part of the start states of all envs.

    Args:
      task: name of the task.
      name: of the part.
      given: an array [E,...], or None for what was drawn.
      drawn: the same part as the task draws it; None where the task has no such part.

    Raises:
      ValueError: an array of another shape, which is known while tracing, or a part that the task does not have.
    """
    if given is None:
        return drawn
    if drawn is None:
        raise ValueError(f"{task} has no {name}; leave it out")
    check_shape(name, given, drawn.shape)
    return jnp.asarray(given, drawn.dtype)


def touch_at_start(
    physics: Physics, qpos: Float[Array, "E nq"], qvel: Float[Array, "E nv"], *, drawn: bool
) -> Float[Array, "E S"] | None:
    """Returns the sensors of starts; those that are known are not computed, which halves what finger compiles.

    Args:
      physics: of the task.
      qpos: joint positions.
      qvel: joint velocities.
      drawn: whether the task has drawn the positions.
    """
    if drawn and physics.task.clear_starts:
        return jnp.zeros((len(qpos), physics.mj_model.nsensordata), qpos.dtype)
    return jax.vmap(physics.initial_touch)(qpos, qvel)
