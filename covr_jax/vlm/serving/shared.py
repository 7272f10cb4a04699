"""Arrays for another process through shared memory; the pipe carries their names and shapes only."""

from __future__ import annotations

import shutil
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covr_jax.vlm.serving.protocol import PriorError

_MEMORY = Path("/dev/shm")  # where Linux keeps such blocks; containers often get 64 MB of it


class SharedArrays(NamedTuple):
    """Where some arrays lie: one block, and per array its dtype, shape and first byte."""

    name: str
    places: tuple[tuple[str, tuple[int, ...], int], ...]


def pack(*arrays) -> tuple[SharedMemory, SharedArrays]:
    """Copies arrays into a new block; the caller unlinks it when the other side has answered.

    Raises:
      PriorError: if the machine's shared memory is too small. Writing beyond it would kill the process.
    """
    values = [np.asarray(array) for array in arrays]
    size = sum(value.nbytes for value in values)
    if _MEMORY.is_dir() and (free := shutil.disk_usage(_MEMORY).free) < size:
        raise PriorError(f"{size:,} bytes do not fit into the {free:,} free ones of {_MEMORY}; enlarge it (--shm-size)")
    block = SharedMemory(create=True, size=max(size, 1))
    places, start = [], 0
    for value in values:
        np.ndarray(value.shape, value.dtype, block.buf, start)[...] = value
        places.append((value.dtype.str, value.shape, start))
        start += value.nbytes
    return block, SharedArrays(block.name, tuple(places))


def unpack(parcel: SharedArrays) -> list[np.ndarray]:
    """The arrays of a parcel as copies of one's own."""
    block = SharedMemory(parcel.name)
    arrays = [np.ndarray(shape, dtype, block.buf, start).copy() for dtype, shape, start in parcel.places]
    block.close()
    return arrays


def release(block: SharedMemory) -> None:
    """Gives the memory back."""
    block.close()
    block.unlink()
