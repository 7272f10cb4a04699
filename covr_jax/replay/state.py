"""What the replay is made of. Letters: T slots, E envs, H W image, A action, N numbers of an answer."""

from __future__ import annotations

import flax.struct

from covr_jax.types import Array, Prior


class ReplayState(flax.struct.PyTreeNode):
    """The ring. ``count`` is the number of slots ever written; slot index = count modulo T."""

    frame: Array  # u8[T,E,H,W,3], newest frame of the observation; in device or in pinned host memory
    step_type: Array  # i8[T,E]
    reward: Array  # f32[T,E], arrived with this slot's time step
    discount: Array  # f32[T,E], likewise
    action: Array  # f32[T,E,A], taken from this slot's time step
    prior: Prior  # action f32[T,E,N], valid bool[T,E]: the VLM's a_v (N = A), or map, for this slot's observation
    priority: Array  # f32[T,E], of the transition that starts here; read by the draws of ``draws`` that use it
    top_priority: Array  # f32, what a new slot gets
    count: Array  # i32
