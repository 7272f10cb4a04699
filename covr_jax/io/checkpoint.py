"""Checkpoints: one directory per step, complete or not there at all; the same command resumes from the newest.

``checkpoints/<env_steps>/`` holds ``state/`` (orbax: learner, replay, environments, counters), ``host.json`` (what the
host loop carries) and ``adapter/`` (the VLM's LoRA weights, where there are any). It is written under a temporary name
and moved into place last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEEP = 2  # newest checkpoints that stay


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read; the message is one line that says which and what to do."""


class Checkpointer:
    """Saves and restores under ``run_dir/checkpoints``."""

    def __init__(self, run_dir: Path):
        self._root = Path(run_dir) / "checkpoints"

    def steps(self) -> list[int]:
        """Env steps of the complete checkpoints, ascending."""
        if not self._root.is_dir():
            return []
        return sorted(int(path.name) for path in self._root.iterdir() if path.name.isdigit())

    def save(
        self, env_steps: int, state: Any, host: dict[str, Any], save_adapter: Callable[[Path], Any] | None = None
    ) -> Path:
        """Write one checkpoint and drop the oldest beyond KEEP.

        Args:
          state: pytree of arrays. host: JSON-able. save_adapter: called with the directory for the LoRA weights.

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
            (temporary / "host.json").write_text(json.dumps(host))
            if final.exists():  # of a sitting that ended here: it must not be found half deleted
                final.rename(replaced)
            temporary.rename(final)
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoint {final}: {error}; free space and run again") from error
        for old in self.steps()[:-KEEP]:
            shutil.rmtree(self._root / str(old), ignore_errors=True)
        return final

    def restore(self, like: Callable[[], Any], env_steps: int | None = None) -> tuple[Any, dict[str, Any], Path]:
        """The newest checkpoint (or that of ``env_steps``): state, host values, directory.

        Args:
          like: makes a state of the same structure, whose shapes, dtypes and placement are used. It is called here, so
            that its memory is free again before anything is read: a replay may fill most of what there is.

        Raises:
          CheckpointError: none there, or one that cannot be read.
        """
        import jax
        from orbax.checkpoint import v1 as ocp

        known = self.steps()
        if not known or (env_steps is not None and env_steps not in known):
            raise CheckpointError(f"no checkpoint {env_steps or ''} in {self._root}; train first")
        directory = self._root / str(known[-1] if env_steps is None else env_steps)
        state = like()
        pinned = [leaf.committed for leaf in jax.tree.leaves(state)]
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        del state
        try:
            leaves, structure = jax.tree.flatten(ocp.load(directory.resolve() / "state", abstract))
            for place, pin in enumerate(pinned):  # one by one: of no more than one array are there two copies
                leaves[place] = _placed_as(leaves[place], pin)
            state = jax.tree.unflatten(structure, leaves)
            host = json.loads((directory / "host.json").read_text())
        except Exception as error:  # a damaged array comes out of TensorStore as a bare Exception
            line = str(error).splitlines()[0] if str(error) else type(error).__name__
            full = isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line
            remedy = "free memory and run again" if full else "delete it to use an older one"
            raise CheckpointError(f"cannot read checkpoint {directory}: {line}; {remedy}") from error
        return state, host, directory


def _save_arrays(path: Path, state: Any) -> None:
    from orbax.checkpoint import v1 as ocp

    try:
        ocp.save(path, state)
    except (ValueError, RuntimeError) as error:  # what TensorStore makes of a full disk
        raise OSError((str(error).splitlines() or [type(error).__name__])[0]) from error


def _placed_as(leaf: Any, pinned: bool) -> Any:
    """A copy like one that a program computed: orbax pins arrays to a device, and pinned ones compile anew."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    if len(leaf.sharding.device_set) > 1:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_placed_as(jax.random.key_data(leaf), pinned))
    sharding, values = leaf.sharding, np.array(leaf)
    leaf.delete()  # before there is another copy
    # Pinned on purpose, perhaps in the host's memory.
    return jax.device_put(values, sharding) if pinned else jnp.array(values, copy=True)
