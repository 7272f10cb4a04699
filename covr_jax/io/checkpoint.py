"""Checkpoints: one directory per step, complete or not there at all; a run goes on from the newest that is whole.

``checkpoints/<env_steps>/`` holds ``state/`` (orbax: learner, replay, environments, counters), ``host.json`` (the host
loop's state, the format and the version that wrote it), ``adapter/`` (the VLM's LoRA weights, where there are any) and
``manifest.json`` (a SHA-256 of each file). It is written under a temporary name and moved into place last.

Format 1 has no ``format`` entry (covr_jax 0.1.0); format 2 calls two entries of the host loop's state by other names;
format 3 adds the manifest.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from covr_jax import __version__
from covr_jax.io import manifest
from covr_jax.io.files import sync_directory, write_json
from covr_jax.runtime.errors import one_line

KEEP = 2  # newest checkpoints that stay
_FIRST_VERSION = "0.1.0"  # it did not name itself
_FIRST_WITH_MANIFEST = 3
FORMAT = 3  # of the checkpoints that this version writes; it reads all formats up to this one


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read; the message is one line that says which and what to do."""


class _DamagedError(Exception):
    """A checkpoint is not what was written; the message is one line."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


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
        """Writes one checkpoint, and drops the oldest ones beyond KEEP and those of later steps, which were damaged.

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
            self.clean()
            temporary.mkdir(parents=True)
            _save_arrays(temporary / "state", state)
            if save_adapter is not None:
                save_adapter(temporary / "adapter")
            write_json(temporary / "host.json", host | {"format": FORMAT, "covr_jax_version": __version__})
            manifest.write_manifest(temporary)
            if final.exists():  # an earlier process of this run ended here: it must not be found half deleted
                final.rename(replaced)
            temporary.rename(final)
            sync_directory(self._root)
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            shutil.rmtree(temporary, ignore_errors=True)  # it takes the space that is missing
            raise CheckpointError(f"cannot write checkpoint {final}: {error}; free space and run again") from error
        kept = [step for step in self.steps() if step <= env_steps][-KEEP:]
        for other in set(self.steps()).difference(kept):
            shutil.rmtree(self._root / str(other), ignore_errors=True)
        return final

    def clean(self) -> None:
        """Removes what processes that were killed while saving have left, and finishes what only lacks its name."""
        for path in self._root.glob("*.old") if self._root.is_dir() else ():
            if not path.with_suffix("").exists():  # killed between two moves
                path.rename(path.with_suffix(""))
        for suffix in ("tmp", "old"):
            for path in self._root.glob(f"*.{suffix}") if self._root.is_dir() else ():
                shutil.rmtree(path, ignore_errors=True)

    def restore(
        self,
        like: Callable[[], Any],
        env_steps: int | None = None,
        tell: Callable[[str], None] = _warn,
    ) -> tuple[Any, dict[str, Any], Path]:
        """Reads the newest checkpoint that is whole, or that of ``env_steps``.

        Args:
          like: makes a state of the same structure, whose shapes, dtypes and placement are used. It is called here, so
            that its memory is free again before anything is read: a replay may fill most of what there is.
          env_steps: which checkpoint; None: the newest that is as it was written.
          tell: shows one line for each damaged checkpoint that is passed over.

        Returns:
          state, state of the host loop, directory.

        Raises:
          CheckpointError: none there, none that can be read, one whose state has another structure, or one that a later
            version of covr_jax wrote.
        """
        known = self.steps()
        if not known or (env_steps is not None and env_steps not in known):
            raise CheckpointError(f"no checkpoint {env_steps or ''} in {self._root}; train first")
        wanted = known[::-1] if env_steps is None else [env_steps]
        abstract: Any = None
        for number, directory in enumerate(self._root / str(step) for step in wanted):
            try:
                host = _read_host(directory)
                abstract = abstract or _abstract(like())
                return _load(directory, *abstract), host, directory
            except _DamagedError as error:
                line = f"checkpoint {directory} is damaged: {error}"
                if number == len(wanted) - 1:
                    others = [step for step in known if step not in wanted]
                    remedy = f"take another one, {others}" if others else "choose another --run-dir and train again"
                    raise CheckpointError(f"{line}; {remedy}") from error
                tell(f"{line}; going on from {wanted[number + 1]:,} env steps")
        raise CheckpointError(f"no checkpoint in {self._root}")


def _read_host(directory: Path) -> dict[str, Any]:
    """State of the host loop in a checkpoint of any format up to FORMAT, whose files are those that were written."""
    if manifest.has_manifest(directory) and (damage := manifest.find_damage(directory)):
        raise _DamagedError(damage)
    try:
        host = dict(json.loads((directory / "host.json").read_text()))
        version, writer = int(host.pop("format", 1)), str(host.pop("covr_jax_version", _FIRST_VERSION))
    except (OSError, ValueError, TypeError) as error:
        raise _DamagedError(f"host.json cannot be read ({one_line(error)})") from error
    if version > FORMAT:
        raise CheckpointError(
            f"{directory} was written by covr_jax {writer} in format {version}; this is covr_jax {__version__}, which"
            f" reads formats up to {FORMAT}: install {writer} or later"
        )
    if version >= _FIRST_WITH_MANIFEST and not manifest.has_manifest(directory):
        raise _DamagedError(f"{manifest.NAME} is missing")
    return host


def _abstract(state: Any) -> tuple[Any, list[bool]]:
    """Shapes, dtypes and placement of a state, and which of its arrays are pinned to their place."""
    import jax

    pinned = [leaf.committed for leaf in jax.tree.leaves(state)]
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state), pinned


def _load(directory: Path, abstract: Any, pinned: list[bool]) -> Any:
    """Reads the arrays of a checkpoint.

    Raises:
      _DamagedError: they cannot be read, and nothing says that they are as they were written.
      CheckpointError: there is too little memory, or they have another structure.
    """
    import jax
    from orbax.checkpoint import v1 as ocp

    try:
        with _plain_path(directory / "state") as path:
            leaves, structure = jax.tree.flatten(ocp.load(path, abstract))
        for index, pin in enumerate(pinned):  # one by one: no more than one array exists twice at a time
            leaves[index] = _copy_like(leaves[index], pin)
        return jax.tree.unflatten(structure, leaves)
    except Exception as error:  # a damaged array comes out of TensorStore as a bare Exception
        line = one_line(error)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line:
            raise CheckpointError(f"cannot read checkpoint {directory}: {line}; free memory and run again") from error
        if not manifest.has_manifest(directory):
            raise _DamagedError(line) from error
        raise CheckpointError(
            f"checkpoint {directory} is whole but holds another state than this version of covr_jax makes of these"
            f" options: {line}; choose another --run-dir, or the version that wrote it"
        ) from error


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
def _without_tracebacks() -> Iterator[None]:
    """Keeps orbax's threads from logging tracebacks of errors that are raised as well."""
    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)


def _save_arrays(path: Path, state: Any) -> None:
    from orbax.checkpoint import v1 as ocp

    try:
        with _plain_path(path) as plain, _without_tracebacks():
            ocp.save(plain, state)
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
