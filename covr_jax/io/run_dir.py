"""A run's directory: who may write there, what belongs there, how to open what is there."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from covr_jax import config as configuration
from covr_jax.config import Config, ConfigError
from covr_jax.io import checkpoint


class Result(NamedTuple):
    """Of a finished run; also in ``result.json``."""

    final_return: float
    final_return_std: float
    random_return: float
    env_steps: int
    seconds: float


def write_json(path: Path, value: Any, indent: int = 1) -> None:
    """The file is there whole or as it was before."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(value, indent=indent))
    os.replace(partial, path)


@contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Hold the run directory; ConfigError when another process holds it. A killed process frees it."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{run_dir} is in use by another process; choose another --run-dir") from error
        yield


def check_config(config: Config, run_dir: Path) -> None:
    """Compare with the config.json that is there: a run directory belongs to one configuration.

    Raises:
      ConfigError: another configuration's directory, with the first difference.
    """
    path = run_dir / "config.json"
    values = json.loads(json.dumps(configuration.to_dict(config)))
    if path.exists():
        changed = configuration.differences(json.loads(path.read_text()), values)
        if changed:
            more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
            raise ConfigError(f"{run_dir} holds a run with other options: {changed[0]}{more}; choose another --run-dir")
        if not config.run.resume and checkpoint.Checkpointer(run_dir).steps():
            raise ConfigError(f"{run_dir} already holds a checkpoint and --run.resume is off; choose another --run-dir")
