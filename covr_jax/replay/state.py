"""State of the replay. T slots, E envs, H W image, A action, N numbers of a VLM's answer."""

from __future__ import annotations

import flax.struct
from jaxtyping import Array, Float, Int, Int8, UInt8

from covr_jax.types import Prior


class ReplayState(flax.struct.PyTreeNode):
    """The ring. ``count`` is the number of slots ever written; the next one is slot ``count`` modulo T."""

    frame: UInt8[Array, "T E H W 3"]  # newest frame of the observation; in device or in pinned host memory
    step_type: Int8[Array, "T E"]
    reward: Float[Array, "T E"]  # arrived with this slot's time step
    discount: Float[Array, "T E"]  # arrived with this slot's time step
    action: Float[Array, "T E A"]  # taken from this slot's time step
    prior: Prior  # action f32[T,E,N], valid bool[T,E]: the VLM's a_v (N = A), or map, for this slot's observation
    priority: Float[Array, "T E"]  # of the transition that starts here; read by some samplers
    top_priority: Float[Array, ""]  # of a new slot
    count: Int[Array, ""]
