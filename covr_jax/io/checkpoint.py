"""Checkpoints: one directory per step, complete or not there at all; a run goes on from the newest that is whole.

``checkpoints/<env_steps>/`` holds ``state/`` (orbax: learner, replay, environments, counters), ``host.json`` (the host
loop's state, the format and the version that wrote it), ``adapter/`` (the VLM's LoRA weights, where there are any) and
``manifest.json`` (a SHA-256 of each file). It is written under a temporary name and moved into place last.
"""

from __future__ import annotations

import json
import shutil
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from covr_jax import __version__
from covr_jax.io import manifest
from covr_jax.io.files import sync_directory, write_json
from covr_jax.io.formats import FIRST_VERSION, FIRST_WITH_MANIFEST, FORMAT, UNCHANGED, Before, History
from covr_jax.runtime.errors import one_line

KEEP = 2  # newest checkpoints that stay
BEST = "best"  # folder of the checkpoint with the policy of a run's best evaluation
_COPY_SHARE = 0.8  # of the host's free memory that a copy of the state may take
_COPY_BYTES = 2**30  # that it may take where the state is in the host's memory itself: orbax copies a copy once more


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be read; the message is one line that says which and what to do."""


def _refused(final: Path, temporary: Path, error: OSError) -> CheckpointError:
    """Removes what was written so far, which takes the space that is missing; returns the error to raise."""
    shutil.rmtree(temporary, ignore_errors=True)
    return CheckpointError(f"cannot write checkpoint {final}: {error}; free space and run again")


class _DamagedError(Exception):
    """A checkpoint is not what was written; the message is one line."""


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


class Saved(NamedTuple):
    """The last checkpoint that was written."""

    env_steps: int
    nbytes: int  # of its files
    seconds: float  # from its first byte to its last, while training may go on
    blocked_seconds: float  # in which training waited


class Checkpointer:
    """Saves and restores under a directory of a run.

    Args:
      run_dir: of the run.
      folder: of the checkpoints within it.
      keep: how many of the newest ones stay.
      history: how the arrays of earlier formats differ.

    Attributes:
      last: what was written last; None before that.
    """

    def __init__(
        self,
        run_dir: Path,
        folder: str = "checkpoints",
        keep: int = KEEP,
        history: History = UNCHANGED,
    ):
        self._root, self._keep, self._history = Path(run_dir) / folder, keep, history
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._writing: Future[Saved | None] | None = None
        self.last: Saved | None = None

    def writer(self) -> str | None:
        """The version of the package that wrote the newest checkpoint; None where none can be read."""
        try:
            host = json.loads((self._root / str(self.steps()[-1]) / "host.json").read_text())
            return str(host.get("covr_jax_version", FIRST_VERSION))
        except (OSError, ValueError, AttributeError, IndexError):
            return None

    def steps(self) -> list[int]:
        """Env steps of the complete checkpoints, ascending, with that which is being written now."""
        self.wait()
        return self._steps()

    def _steps(self) -> list[int]:
        if not self._root.is_dir():
            return []
        return sorted(int(path.name) for path in self._root.iterdir() if path.name.isdigit())

    def save(
        self, env_steps: int, state: Any, host: dict[str, Any], save_adapter: Callable[[Path], Any] | None = None
    ) -> Path:
        """Writes one checkpoint; drops the oldest ones beyond ``keep`` and those of later steps, which were damaged.

        The state is copied and written by a thread; programs may reuse its memory from now on. Where the host's memory
        does not hold a copy, or holds a large state itself, this waits until it is written as it is.
        So do several processes of one run: all call this, and each writes the arrays that it holds.

        Args:
          env_steps: of the run so far; names the checkpoint.
          state: pytree of arrays.
          host: JSON-able state of the host loop.
          save_adapter: called here with the directory for the LoRA weights; None where there are none.

        Returns:
          The checkpoint's directory, as soon as it is complete.

        Raises:
          CheckpointError: the disk refused, this time or the last; earlier checkpoints are untouched.
        """
        from covr_jax.io import arrays
        from covr_jax.runtime import hosts, memory, on_cpu

        self.wait()
        began, final, temporary = time.monotonic(), self._root / str(env_steps), self._root / f"{env_steps}.tmp"
        if hosts.is_first():
            try:
                self.clean()
                temporary.mkdir(parents=True)
                if save_adapter is not None:
                    save_adapter(temporary / "adapter")
                write_json(temporary / "host.json", host | {"format": FORMAT, "covr_jax_version": __version__})
            except OSError as error:
                raise _refused(final, temporary, error) from error
        if hosts.several():  # orbax has them wait for each other, which they do in this thread alone
            self.last = self._write(env_steps, state, began, None)
            return final
        free, size = memory.free_bytes("host"), arrays.nbytes(state)
        if aside := (free is None or size <= _COPY_SHARE * free) and (size <= _COPY_BYTES or not on_cpu()):
            state = arrays.host_copy(state)
        self._writing = self._writer.submit(self._write, env_steps, state, began, time.monotonic() if aside else None)
        if not aside:
            self.wait()
        return final

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
          CheckpointError: the disk refused.
        """
        if self._writing is not None:
            writing, self._writing = self._writing, None
            self.last = writing.result()

    def _write(self, env_steps: int, state: Any, began: float, released: float | None) -> Saved | None:
        """Writes the arrays beside what ``save`` wrote, and moves the checkpoint into its place.

        Returns:
          What was written; None in other processes than the first.
        """
        from covr_jax.io import arrays
        from covr_jax.runtime import hosts

        final, temporary, replaced = (self._root / f"{env_steps}{suffix}" for suffix in ("", ".tmp", ".old"))
        try:
            arrays.save(temporary / "state", state)
            if not hosts.is_first():
                return None
            size = manifest.write_manifest(temporary)
            if final.exists():  # an earlier process of this run ended here: it must not be found half deleted
                final.rename(replaced)
            temporary.rename(final)
            sync_directory(self._root)
            shutil.rmtree(replaced, ignore_errors=True)
        except OSError as error:
            raise _refused(final, temporary, error) from error
        kept = [step for step in self._steps() if step <= env_steps][-self._keep :]
        for other in set(self._steps()).difference(kept):
            shutil.rmtree(self._root / str(other), ignore_errors=True)
        ended = time.monotonic()
        return Saved(env_steps, size, ended - began, (released or ended) - began)

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
        *,
        partial: bool = False,
    ) -> tuple[Any, dict[str, Any], Path]:
        """Reads the newest checkpoint that is whole, or that of ``env_steps``.

        Args:
          like: makes a state of the same structure, whose shapes, dtypes and placement are used. It is called here, so
            that its memory is free again before anything is read: a replay may fill most of what there is.
          env_steps: which checkpoint; None: the newest that is as it was written.
          tell: shows one line for each damaged checkpoint that is passed over.
          partial: whether the checkpoint may hold more than ``like`` makes; the rest is not read.

        Returns:
          state, state of the host loop, directory.

        Raises:
          CheckpointError: none there, none that can be read, one whose state has another structure, or one that a later
            version of covr_jax wrote.
        """
        from covr_jax.io import arrays
        from covr_jax.runtime import memory

        known = self.steps()
        if not known or (env_steps is not None and env_steps not in known):
            raise CheckpointError(f"no checkpoint {env_steps or ''} in {self._root}; train first")
        wanted = known[::-1] if env_steps is None else [env_steps]
        abstract: Any = None
        for number, directory in enumerate(self._root / str(step) for step in wanted):
            try:
                host, version = _read_host(directory)
                abstract = abstract or arrays.abstract(like())
                memory.give_back()
                state = _load(directory, abstract, self._history.before(version), partial=partial)
                memory.give_back()
                return state, host, directory
            except _DamagedError as error:
                line = f"checkpoint {directory} is damaged: {error}"
                if number == len(wanted) - 1:
                    others = [step for step in known if step not in wanted]
                    remedy = f"take another one, {others}" if others else "choose another --run-dir and train again"
                    raise CheckpointError(f"{line}; {remedy}") from error
                tell(f"{line}; going on from {wanted[number + 1]:,} env steps")
        raise CheckpointError(f"no checkpoint in {self._root}")


def _read_host(directory: Path) -> tuple[dict[str, Any], int]:
    """Host loop's state, and the format, of a checkpoint whose files are those that were written."""
    if manifest.has_manifest(directory) and (damage := manifest.find_damage(directory)):
        raise _DamagedError(damage)
    try:
        host = dict(json.loads((directory / "host.json").read_text()))
        version, writer = int(host.pop("format", 1)), str(host.pop("covr_jax_version", FIRST_VERSION))
    except (OSError, ValueError, TypeError) as error:
        raise _DamagedError(f"host.json cannot be read ({one_line(error)})") from error
    if version > FORMAT:
        raise CheckpointError(
            f"{directory} was written by covr_jax {writer} in format {version}; this is covr_jax {__version__}, which"
            f" reads formats up to {FORMAT}: install {writer} or later"
        )
    if version >= FIRST_WITH_MANIFEST and not manifest.has_manifest(directory):
        raise _DamagedError(f"{manifest.NAME} is missing")
    return host, version


def _load(directory: Path, abstract: tuple[Any, list[bool]], before: Before, *, partial: bool) -> Any:
    """Reads the arrays of a checkpoint; those that its format lacks become 0.

    Raises:
      _DamagedError: they cannot be read, and nothing says that they are as they were written.
      CheckpointError: there is too little memory, or they have another structure.
    """
    from covr_jax.io import arrays
    from covr_jax.runtime import hosts

    try:
        return arrays.load(directory / "state", *abstract, before, partial=partial)
    except Exception as error:  # a damaged array comes out of TensorStore as a bare Exception
        if hosts.tells_loss(error):
            raise
        line = one_line(error)
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in line:
            raise CheckpointError(f"cannot read checkpoint {directory}: {line}; free memory and run again") from error
        if not manifest.has_manifest(directory):
            raise _DamagedError(line) from error
        raise CheckpointError(
            f"checkpoint {directory} is whole but holds another state than this version of covr_jax makes of these"
            f" options: {line}; choose another --run-dir, or the version that wrote it"
        ) from error
