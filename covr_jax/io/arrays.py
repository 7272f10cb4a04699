"""Pytrees of arrays in a directory, written and read by orbax."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from orbax.checkpoint import v1 as ocp

from covr_jax.io.formats import AS_TODAY, Before
from covr_jax.runtime import hosts
from covr_jax.runtime.errors import one_line

# orbax numbers the saves of a process one after the other, and removes the files of a save when its number is done:
# of two that threads make at once, one may lose its files while it writes them.
_SAVING = threading.Lock()
_PIECE_BYTES = 2**24  # of an array in a file; one that is read is in memory twice


def nbytes(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def host_copy(tree: Any) -> Any:
    """Returns the tree as NumPy arrays of their own (PRNG keys as JAX's): programs may reuse the memory of the tree.

    All arrays are on their way to the host before the first one is waited for.
    """

    def copy(leaf: Any) -> Any:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(jnp.array(np.array(jax.random.key_data(leaf))))
        return np.array(leaf)

    for leaf in jax.tree.leaves(tree):
        leaf.copy_to_host_async()
    return jax.tree.map(copy, tree)


def save(directory: Path, tree: Any) -> None:
    """Writes a tree of arrays into a new directory.

    Of several processes all call this, and each writes the parts that it holds.

    Raises:
      OSError: the disk refused.
    """
    refused, context = None, ocp.Context()
    context.array.saving.storage_options.chunk_byte_size = _PIECE_BYTES
    _pass_over_what_is_raised()
    with _SAVING, _plain_path(directory) as path, context, _quiet_loggers("absl", "asyncio"):
        try:
            ocp.save(path, tree)
        except (ValueError, RuntimeError) as error:  # what TensorStore makes of a full disk
            if hosts.tells_loss(error):
                raise
            refused = one_line(error)
        if refused:
            gc.collect()  # asyncio logs a traceback for each write that nobody asked about, when it is collected
    if refused:
        raise OSError(refused)


def abstract(tree: Any) -> tuple[Any, list[bool]]:
    """Shapes, dtypes and placement of a tree's arrays, and which of them are pinned to their place."""
    jax.block_until_ready(tree)  # only then is its memory free once it is dropped
    pinned = [leaf.committed for leaf in jax.tree.leaves(tree)]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), tree), pinned


def load(directory: Path, like: Any, pinned: list[bool], before: Before = AS_TODAY, *, partial: bool = False) -> Any:
    """Reads the arrays of a directory that ``save`` wrote.

    Args:
      directory: of the arrays.
      like: shapes, dtypes and placement, as ``abstract`` returns them.
      pinned: which arrays, in the order of the leaves, shall be pinned to their place.
      before: arrays that the directory does not hold, which become 0, and those that it holds in another shape.
      partial: whether the directory may hold more arrays than ``like``; they are not read.

    Raises:
      Exception: what orbax and TensorStore raise, for files and trees that do not fit.
    """
    _pass_over_what_is_raised()
    asked, structure = jax.tree.flatten(like)
    names = _names(like)
    held = [name not in before.lacking for name in names]
    shaped = [_as_stored(leaf, name, before) for leaf, name in zip(asked, names, strict=True)]
    stored = jax.tree.unflatten(structure, [leaf if there else None for leaf, there in zip(shaped, held, strict=True)])
    context = ocp.Context()
    context.pytree.loading.partial_load = partial or bool(before.lacking)
    with _plain_path(directory) as path, context:
        loaded = jax.tree.leaves(ocp.load(path, stored))
    if missing := [name for name, leaf in zip(_names(stored), loaded, strict=True) if not isinstance(leaf, jax.Array)]:
        raise KeyError(f"no {missing[0]} in {directory}")  # orbax leaves it as it was asked for
    read = iter(loaded)
    leaves = []
    for leaf, there, pin in zip(asked, held, pinned, strict=True):
        # One by one: no more than one array exists twice at a time.
        leaves.append(_copy_like(next(read), pin, leaf.shape) if there else jnp.zeros(leaf.shape, leaf.dtype))
    return jax.tree.unflatten(structure, leaves)


def _names(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


@contextlib.contextmanager
def _plain_path(path: Path) -> Iterator[str]:
    """Gives a path without characters that orbax takes for a pattern: a link to it where the path itself has some."""
    absolute = path.absolute()
    if not set("[]*?") & set(str(absolute)):
        yield str(absolute)
        return
    with tempfile.TemporaryDirectory(prefix="covr_jax_") as folder:
        link = Path(folder) / "checkpoint"
        link.symlink_to(absolute.parent, target_is_directory=True)
        yield str(link / absolute.name)


@contextlib.contextmanager
def _quiet_loggers(*names: str) -> Iterator[None]:
    """Keeps loggers from printing tracebacks of an error that is raised as well.

    Each call adds a filter of its own and removes that one: several threads may be in here at once.
    """

    def nothing(_: logging.LogRecord) -> bool:
        return False

    for name in names:
        logging.getLogger(name).addFilter(nothing)
    try:
        yield
    finally:
        for name in names:
            logging.getLogger(name).removeFilter(nothing)


@functools.cache
def _pass_over_what_is_raised() -> None:
    """Keeps tracebacks of errors that are raised as well off the console, from now on.

    When one array cannot be written or read, orbax closes its event loop. TensorStore's threads that are at others
    print tracebacks of that, and so do orbax's coroutines when they are collected, some of them much later.
    """
    hook = sys.unraisablehook

    def of_others(error: Any) -> None:
        code = getattr(error.object, "cr_code", None)
        if str(error.exc_value) != "Event loop is closed" and not (code and "orbax" in code.co_filename):
            hook(error)

    sys.unraisablehook = of_others


def _as_stored(leaf: Any, name: str, before: Before) -> Any:
    if name not in before.shapes:
        return leaf
    return jax.ShapeDtypeStruct(before.shapes[name](leaf.shape), leaf.dtype, sharding=leaf.sharding)


def _copy_like(leaf: Any, pinned: bool, shape: tuple[int, ...]) -> Any:
    """A copy like one that a program computed: orbax pins arrays to a device, and pinned ones would compile anew."""
    if leaf.shape != shape:
        return jax.device_put(np.asarray(leaf).reshape(shape), leaf.sharding if pinned else None)
    if len(leaf.sharding.device_set) > 1:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.random.key_data(leaf)
        return jax.random.wrap_key_data(_copy_like(data, pinned, data.shape))
    if pinned:
        return leaf  # on purpose, perhaps in the host's memory
    return jnp.array(np.asarray(leaf), copy=True)
