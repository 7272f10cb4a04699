"""Where the replay keeps its frames, nearly all of its bytes: in the device's memory or in pinned host memory.

Which one is part of the array's type, and the compiled programs then move single frames. A frame is a row of bytes: as
[T,E,H,W,3] the compilers for TPUs give the ring another layout where it is read than where it is written, and copy the
whole of it twice in every program. T slots, E envs, H = W image side, F = 3 H W bytes of a frame.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, UInt8

from covr_jax.config import Storage


def frame_shape(row: int) -> tuple[int, int, int]:
    """Returns (H, W, 3) of a square frame of 3*H*W bytes."""
    side = math.isqrt(row // 3)
    return side, side, 3


def init_frames(slots: int, num_envs: int, image_size: int, storage: Storage) -> UInt8[Array, "T E F"]:
    """Zeros for frames of ``image_size`` pixels a side; ``host`` needs a backend with ``pinned_host`` memory."""
    shape = (slots, num_envs, 3 * image_size**2)
    if storage == "device":
        return jnp.zeros(shape, jnp.uint8)
    host = jax.sharding.SingleDeviceSharding(jax.local_devices()[0], memory_kind="pinned_host")
    return jax.device_put(np.zeros(shape, np.uint8), host)


def _on_host(frame: Array) -> bool:
    return jax.typeof(frame).memory_space == jax.memory.Space.Host


def write_frames(
    frame: UInt8[Array, "T E F"], slot: Int[Array, ""], newest: UInt8[Array | np.ndarray, "E H W 3"]
) -> UInt8[Array, "T E F"]:
    """Returns the frames with those of one slot replaced."""
    newest = newest.reshape(1, *frame.shape[1:])
    if _on_host(frame):
        newest = jax.device_put(newest, jax.memory.Space.Host)
    # No scatter: between the two memories XLA moves slices and nothing else, and a TPU has another layout for it.
    origin = (slot, *[jnp.zeros_like(slot)] * (frame.ndim - 1))
    return lax.dynamic_update_slice(frame, newest, origin, allow_negative_indices=False)


def read_frames(
    frame: UInt8[Array, "T E F"],
    slot: Int[Array | np.ndarray, "*n"],
    env_id: Int[Array | np.ndarray, "*n"],
    *,
    whole: bool = False,
) -> UInt8[Array, "*n H W 3"]:
    """Returns the single frames at slots and env ids.

    Args:
      frame: of the ring.
      slot: 0 to T - 1.
      env_id: 0 to E - 1.
      whole: the ring is neither split over devices nor one of several under ``jax.vmap``. A TPU then reads frame by
        frame: for a gather of rows as long as these its compiler copies the whole ring, in two halves.
    """
    shape = (*slot.shape, *frame_shape(frame.shape[-1]))
    index = jnp.asarray(slot).ravel(), jnp.asarray(env_id).ravel()
    if _on_host(frame):
        rows = _one_by_one(frame, *index)
    elif whole:
        rows = lax.platform_dependent(frame, *index, tpu=_one_by_one, default=_gathered)
    else:
        rows = _gathered(frame, *index)
    return rows.reshape(shape)


def _gathered(frame: Array, slot: Array, env_id: Array) -> Array:
    return frame[slot, env_id]


def _one_by_one(frame: Array, slot: Array, env_id: Array) -> Array:
    on_host = _on_host(frame)

    def fetch(index: tuple[Array, Array]) -> Array:
        origin = (*index, jnp.zeros_like(index[0]))
        taken = lax.dynamic_slice(frame, origin, (1, 1, frame.shape[2]), allow_negative_indices=False)
        return (jax.device_put(taken, jax.memory.Space.Device) if on_host else taken)[0, 0]

    return lax.map(fetch, (slot, env_id))
