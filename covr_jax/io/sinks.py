"""Where rows of metrics go beside ``metrics.jsonl``, which stays the truth: TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib.util
import os
import secrets
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from covr_jax.config import ConfigError
from covr_jax.runtime.errors import one_line

_PROJECT = "covr_jax"  # where the environment names no WANDB_PROJECT
_WANDB_ID = "wandb_id"  # file in the run directory


class Sink(Protocol):
    """Takes rows of numbers, in the order of their env steps."""

    def write(self, counters: Mapping[str, float], values: Mapping[str, float]) -> None:
        """Takes one row; ``counters`` has its env steps."""

    def flush(self) -> None:
        """Forces what was taken to the disk."""

    def close(self) -> None:
        """Ends the sink."""


class TensorBoard:
    """Event files in ``run_dir/tensorboard``.

    Args:
      run_dir: of the run.
      resume_env_steps: of the checkpoint that the run resumes from; None: a new run.
    """

    def __init__(self, run_dir: Path, resume_env_steps: int | None = None):
        from tensorboardX import SummaryWriter  # not needed to read metrics, and slow to load

        # TensorBoard files cannot be cut; this makes the viewer drop what the resumed run will write again.
        purge = 0 if resume_env_steps is None else resume_env_steps + 1
        folder = run_dir / "tensorboard"
        part = sum(1 for _ in folder.glob("*"))  # the default name has whole seconds only and would be written over
        self._writer = SummaryWriter(str(folder), purge_step=purge, filename_suffix=f".{part}")

    def write(self, counters: Mapping[str, float], values: Mapping[str, float]) -> None:
        """Adds every value at its env steps."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, global_step=int(counters["env_steps"]))

    def flush(self) -> None:
        """Writes what is buffered."""
        self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        self._writer.close()


class WandB:
    """A run of Weights & Biases, whose id ``run_dir/wandb_id`` keeps: a resumed run goes on in it.

    Project, entity, mode (``WANDB_MODE=offline``) and key come from wandb's own environment variables. W&B keeps the
    first row of an env step; a resumed run writes the rows since its checkpoint again, and they are the same.

    Args:
      run_dir: of the run.
      options: of the run, shown as W&B's config.
      name: of the run in W&B.

    Raises:
      ConfigError: W&B does not take the run.
    """

    def __init__(self, run_dir: Path, options: Mapping[str, Any], name: str):
        import wandb

        file = run_dir / _WANDB_ID
        if not file.exists():
            file.write_text(secrets.token_hex(4) + "\n")
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        settings = wandb.Settings(console="off", silent=True)
        try:
            self._run: Any = wandb.init(
                project=project,
                id=file.read_text().strip(),
                resume="allow",
                dir=str(run_dir),
                name=name,
                config=dict(options),
                settings=settings,
            )
        except Exception as error:  # its errors have no common class: no key, no network, another version's files
            line = f"W&B does not take the run ({one_line(error)}); set WANDB_MODE=offline, or leave wandb out"
            raise ConfigError(line) from error

    def write(self, counters: Mapping[str, float], values: Mapping[str, float]) -> None:
        """Logs a row at its env steps. Training goes on without W&B where that fails."""
        if self._run is None:
            return
        try:
            self._run.log({**counters, **values}, step=int(counters["env_steps"]))
        except Exception as error:
            self._run = None
            warnings.warn(f"W&B has failed ({one_line(error)}); the run goes on without it", stacklevel=3)

    def flush(self) -> None:
        """Does nothing: a process of W&B's own writes."""

    def close(self) -> None:
        """Ends the run in W&B."""
        if self._run is not None:
            self._run.finish()


def check_sinks(names: Sequence[str]) -> None:
    """Raises ConfigError for a sink whose package is not installed."""
    if "wandb" in names and importlib.util.find_spec("wandb") is None:
        raise ConfigError("--log wandb needs the package wandb; pip install wandb, or leave it out")


def open_sinks(
    names: Sequence[str], run_dir: Path, resume_env_steps: int | None, options: Mapping[str, Any], title: str
) -> list[Sink]:
    """The sinks of a run by name.

    Args:
      names: ``tensorboard``, ``wandb``; as ``check_sinks`` lets them pass.
      run_dir: of the run.
      resume_env_steps: of the checkpoint that the run resumes from; None: a new run.
      options: of the run.
      title: of the run.

    Raises:
      ConfigError: a sink that does not take the run.
    """
    made: dict[str, Any] = {
        "tensorboard": lambda: TensorBoard(run_dir, resume_env_steps),
        "wandb": lambda: WandB(run_dir, options, title),
    }
    return [made[name]() for name in names]
