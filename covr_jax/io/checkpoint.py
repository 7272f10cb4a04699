"""Checkpoints: one directory per step, complete or not there at all; the same command resumes from the newest.

``checkpoints/<env_steps>/`` holds ``state/`` (orbax: learner, replay, environments, counters), ``host.json`` (the host
loop's state, the format and the version that wrote it) and ``adapter/`` (the VLM's LoRA weights, where there are any).
It is written under a temporary name and moved into place last.

Format 1 has no ``format`` entry (covr_jax 0.1.0); format 2 calls two entries of the host loop's state by other names.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from covr_jax import __version__
from covr_jax.io.files import write_json
from covr_jax.runtime.errors import one_line

KEEP = 2  # newest checkpoints that stay
_OLDER = "delete it to use an older one"
_FIRST_VERSION = "0.1.0"  # it did not name itself
FORMAT = 2  # of the checkpoints that this version writes; it reads all formats up to this one


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read; the message is one line that says which and what to do."""


class Checkpointer:
    """Saves and restores under ``run_dir/checkpoints``."""

    def __init__(self, run_dir: Path):
        self._root = Path(run_dir) / "checkpoints"

    def writer(self) -> str | None:
        """The version of the package that wrote the newest checkpoint; None where none can be read."""
        try:
            host = json.loads((self._root / str(self.steps()[-1]) / "host.json").read_text())
            return str(host.get("covr_jax_version", _FIRST_VERSION))
        except (OSError, ValueError, AttributeError, IndexError):
            return None

    def steps(self) -> list[int]:
        """Env steps of the complete checkpoints, ascending."""
        if not self._root.is_dir():
            return []
        return sorted(int(path.name) for path in self._root.iterdir() if path.name.isdigit())

    def save(
        self, env_steps: int, state: Any, host: dict[str, Any], save_adapter: Callable[[Path], Any] | None = None
    ) -> Path:
        """Writes one checkpoint and drops the oldest ones beyond KEEP.

        Args:
          env_steps: of the run so far; names the checkpoint.
          state: pytree of arrays.
          host: JSON-able state of the host loop.
          save_adapter: called with the directory for the LoRA weights; None where there are none.

        Returns:
          The checkpoint's directory.

        Raises:
          CheckpointError: the disk refused; earlier checkpoints are untouched.
        """
        final, temporary, replaced = (self._root / f"{env_steps}{suffix}" for suffix in ("", ".tmp", ".old"))
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(replaced, ignore_errors=True)
            temporary.mkdir(parents=True)
            _save_arrays(temporary.resolve() / "state", state)
            if save_adapter is not None:
                save_adapter(temporary / "adapter")
            write_json(temporary / "host.json", host | {"format": FORMAT, "covr_jax_version": __version__})
            if final.exists():  # an earlier process of this run ended here: it must not be found half deleted
                final.rename(replaced)
            temporary.rename(final)
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoint {final}: {error}; free space and run again") from error
        for old in self.steps()[:-KEEP]:
            shutil.rmtree(self._root / str(old), ignore_errors=True)
        return final

    def restore(self, like: Callable[[], Any], env_steps: int | None = None) -> tuple[Any, dict[str, Any], Path]:
        """Reads the newest checkpoint, or that of ``env_steps``.

        Args:
          like: makes a state of the same structure, whose shapes, dtypes and placement are used. It is called here, so
            that its memory is free again before anything is read: a replay may fill most of what there is.

          env_steps: which checkpoint; None: the newest.

        Returns:
          state, state of the host loop, directory.

        Raises:
          CheckpointError: none there, one that cannot be read, or one that a later version of covr_jax wrote.
        """
        import jax
        from orbax.checkpoint import v1 as ocp

        known = self.steps()
        if not known or (env_steps is not None and env_steps not in known):
            raise CheckpointError(f"no checkpoint {env_steps or ''} in {self._root}; train first")
        directory = self._root / str(known[-1] if env_steps is None else env_steps)
        host = _read_host(directory)
        state = like()
        pinned = [leaf.committed for leaf in jax.tree.leaves(state)]
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        del state
        try:
            leaves, structure = jax.tree.flatten(ocp.load(str(directory.resolve() / "state"), abstract))
            for index, pin in enumerate(pinned):  # one by one: no more than one array exists twice at a time
                leaves[index] = _copy_like(leaves[index], pin)
            state = jax.tree.unflatten(structure, leaves)
        except Exception as error:  # a damaged array comes out of TensorStore as a bare Exception
            line = one_line(error)
            full = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line
            remedy = "free memory and run again" if full else _OLDER
            raise CheckpointError(f"cannot read checkpoint {directory}: {line}; {remedy}") from error
        return state, host, directory


def _read_host(directory: Path) -> dict[str, Any]:
    """State of the host loop in a checkpoint of any format up to FORMAT."""
    try:
        host = dict(json.loads((directory / "host.json").read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"cannot read checkpoint {directory}: {one_line(error)}; {_OLDER}") from error
    version, writer = host.pop("format", 1), host.pop("covr_jax_version", _FIRST_VERSION)
    if version > FORMAT:
        raise CheckpointError(
            f"{directory} was written by covr_jax {writer} in format {version}; this is covr_jax {__version__}, which"
            f" reads formats up to {FORMAT}: install {writer} or later"
        )
    return host


def _save_arrays(path: Path, state: Any) -> None:
    from orbax.checkpoint import v1 as ocp

    try:
        ocp.save(str(path), state)
    except (ValueError, RuntimeError) as error:  # what TensorStore makes of a full disk
        raise OSError(one_line(error)) from error


def _copy_like(leaf: Any, pinned: bool) -> Any:
    """A copy like one that a program computed: orbax pins arrays to a device, and pinned ones would compile anew."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if len(leaf.sharding.device_set) > 1:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_copy_like(jax.random.key_data(leaf), pinned))
    sharding, values = leaf.sharding, np.array(leaf)
    leaf.delete()  # before there is another copy
    # Pinned on purpose, perhaps in the host's memory.
    return jax.device_put(values, sharding) if pinned else jnp.array(values, copy=True)
