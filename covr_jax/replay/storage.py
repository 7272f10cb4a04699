"""Where the replay keeps its frames, nearly all of its bytes: in the device's memory or in pinned host memory.

Which one is part of the array's type, and the compiled programs then move single frames. T slots, E envs, H W image.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int, UInt8

from covr_jax.config import Storage


def init_frames(shape: tuple[int, ...], storage: Storage) -> UInt8[Array, "T E H W 3"]:
    """Zeros of a shape (T, E, H, W, 3); ``host`` needs a backend with ``pinned_host`` memory."""
    if storage == "device":
        return jnp.zeros(shape, jnp.uint8)
    host = jax.sharding.SingleDeviceSharding(jax.local_devices()[0], memory_kind="pinned_host")
    return jax.device_put(np.zeros(shape, np.uint8), host)


def _on_host(frame: Array) -> bool:
    return jax.typeof(frame).memory_space == jax.memory.Space.Host


def write_frames(
    frame: UInt8[Array, "T E H W 3"], slot: Int[Array, ""], newest: UInt8[Array | np.ndarray, "E H W 3"]
) -> UInt8[Array, "T E H W 3"]:
    """Returns the frames with those of one slot replaced."""
    if not _on_host(frame):
        return frame.at[slot].set(newest)
    # Between the two memories XLA moves slices and nothing else: a scatter would be computed on the host.
    newest = jax.device_put(newest[None], jax.memory.Space.Host)
    origin = (slot, *[jnp.zeros_like(slot)] * (frame.ndim - 1))
    return lax.dynamic_update_slice(frame, newest, origin, allow_negative_indices=False)


def read_frames(
    frame: UInt8[Array, "T E H W 3"], slot: Int[Array | np.ndarray, "*n"], env_id: Int[Array | np.ndarray, "*n"]
) -> UInt8[Array, "*n H W 3"]:
    """Returns the single frames at slots and env ids."""
    if not _on_host(frame):
        return frame[slot, env_id]

    def fetch(index: tuple[Array, Array]) -> Array:
        origin = (*index, *[jnp.zeros_like(index[0])] * 3)
        taken = lax.dynamic_slice(frame, origin, (1, 1, *frame.shape[2:]), allow_negative_indices=False)
        return jax.device_put(taken, jax.memory.Space.Device)[0, 0]

    fetched = lax.map(fetch, (slot.ravel(), env_id.ravel()))
    return fetched.reshape(*slot.shape, *frame.shape[2:])
