"""State of the replay, its size and the scale of its rewards.

T slots, E envs, F bytes of a frame, H = W image, A action, N numbers of an answer.
"""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Int8, UInt8

from covr_jax.replay.storage import frame_shape
from covr_jax.types import Prior, StepType


class ReplayState(flax.struct.PyTreeNode):
    """The ring. ``count`` is the number of slots ever written; the next one is slot ``count`` modulo T."""

    frame: UInt8[Array, "T E F"]  # newest frame of the observation, bytes [H,W,3]; in device or pinned host memory
    step_type: Int8[Array, "T E"]
    reward: Float[Array, "T E"]  # arrived with this slot's time step
    discount: Float[Array, "T E"]  # arrived with this slot's time step
    action: Float[Array, "T E A"]  # taken from this slot's time step
    prior: Prior  # action f32[T,E,N], valid bool[T,E]: the VLM's a_v (N = A), or map, for this slot's observation
    priority: Float[Array, "T E"]  # of the transition that starts here; read by some samplers
    top_priority: Float[Array, ""]  # of a new slot
    count: Int[Array, ""]
    whole: bool = flax.struct.field(pytree_node=False, default=False)  # see ``storage.read_frames``

    @property
    def pictures(self) -> UInt8[Array, "T E H W 3"]:
        """The frames as images."""
        return self.frame.reshape(*self.frame.shape[:2], *frame_shape(self.frame.shape[2]))


def capacity_in_slots(transitions: int, num_envs: int, frame_stack: int) -> int:
    """Returns T, slots per environment, for at least ``transitions`` transitions over all environments."""
    return max(-(-transitions // num_envs), 1) + frame_stack + 1


def nbytes(slots: int, num_envs: int, image_size: int, action_dim: int, answer_dim: int | None = None) -> int:
    """Returns the predicted size of the ring in bytes; ``answer_dim`` as in ``buffer.init``."""
    answer_dim = action_dim if answer_dim is None else answer_dim
    return slots * num_envs * (3 * image_size**2 + 4 * (action_dim + answer_dim) + 14)


def reward_scale(state: ReplayState) -> Float[Array, ""]:
    """Returns the mean of |reward| over the stored time steps that have one: all but FIRST. 0 where there is none."""
    stored = jnp.arange(state.reward.shape[0])[:, None] < state.count
    counted = stored & (state.step_type != StepType.FIRST)
    total = jnp.sum(jnp.where(counted, jnp.abs(state.reward), 0.0))
    return total / jnp.maximum(jnp.count_nonzero(counted), 1)
