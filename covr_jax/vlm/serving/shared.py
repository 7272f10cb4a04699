"""Passes arrays to another process through shared memory; the pipe carries only their names and shapes."""

from __future__ import annotations

import shutil
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import NamedTuple

import numpy as np

from covr_jax.vlm.serving.protocol import PriorError

_MEMORY = Path("/dev/shm")  # where Linux keeps the blocks; containers often get 64 MB


class SharedArrays(NamedTuple):
    """Description of arrays in one block of shared memory."""

    name: str  # of the block
    layout: tuple[tuple[str, tuple[int, ...], int], ...]  # per array: dtype, shape, offset in bytes


def pack(*arrays) -> tuple[SharedMemory, SharedArrays]:
    """Copies arrays into a new block of shared memory.

    Args:
      *arrays: arrays of any shape and dtype.

    Returns:
      The block, which the caller unlinks once the other process has responded, and its description.

    Raises:
      PriorError: if the machine has too little shared memory. Writing beyond it would kill the process.
    """
    values = [np.asarray(array) for array in arrays]
    size = sum(value.nbytes for value in values)
    if _MEMORY.is_dir() and (free := shutil.disk_usage(_MEMORY).free) < size:
        raise PriorError(f"{size:,} bytes do not fit into the {free:,} free ones of {_MEMORY}; enlarge it (--shm-size)")
    block = SharedMemory(create=True, size=max(size, 1))
    layout, offset = [], 0
    for value in values:
        np.ndarray(value.shape, value.dtype, block.buf, offset)[...] = value
        layout.append((value.dtype.str, value.shape, offset))
        offset += value.nbytes
    return block, SharedArrays(block.name, tuple(layout))


def unpack(arrays: SharedArrays) -> list[np.ndarray]:
    """Returns copies of the arrays in a block."""
    block = SharedMemory(arrays.name)
    copies = [np.ndarray(shape, dtype, block.buf, offset).copy() for dtype, shape, offset in arrays.layout]
    block.close()
    return copies


def release(block: SharedMemory) -> None:
    """Frees a block."""
    block.close()
    block.unlink()
