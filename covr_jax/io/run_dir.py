"""A run directory: which process may write there, and which config it belongs to."""

from __future__ import annotations

import dataclasses
import fcntl
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from covr_jax import __version__
from covr_jax import config as configuration
from covr_jax.config import Config, ConfigError
from covr_jax.io import checkpoint


class Result(NamedTuple):
    """Result of a finished run; also in ``result.json``."""

    final_return: float  # mean over the episodes of the final evaluation
    final_return_std: float  # population standard deviation over those episodes
    random_return: float  # mean return of uniform actions
    env_steps: int
    seconds: float  # wall-clock time of all processes of the run


@contextmanager
def claim(run_dir: Path) -> Iterator[None]:
    """Holds the run directory while the context is open; a killed process frees it.

    Raises:
      ConfigError: another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / ".lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise ConfigError(f"{run_dir} is in use by another process; choose another --run-dir") from error
        yield


def check_config(config: Config, run_dir: Path, resolve: Callable[[Config], Config]) -> Config:
    """Compares a config with the config.json of a run directory, which belongs to one configuration.

    Where the config says ``env.physics auto``, a run goes on with the engine that it began with, on any machine.

    Args:
      config: of the run that is about to start.
      run_dir: may lack a config.json; nothing is compared then.
      resolve: fills in what the two leave open and what they do not read (``training.resolve.comparable``). Files of
        earlier versions hold None where later ones hold the value.

    Returns:
      The config to go on with.

    Raises:
      ConfigError: the directory of another configuration, with the first difference.
    """
    path = run_dir / "config.json"
    if not path.exists():
        return config
    try:
        recorded = resolve(configuration.from_dict(json.loads(path.read_text())))
        if config.env.physics == "auto":
            config = dataclasses.replace(config, env=dataclasses.replace(config.env, physics=recorded.env.physics))
    except ConfigError as error:
        raise ConfigError(f"{run_dir} holds a run with other options: {error}; choose another --run-dir") from error
    changed = configuration.differences(recorded, resolve(config))
    if changed:
        more = f" (and {len(changed) - 1} more)" if len(changed) > 1 else ""
        writer = checkpoint.Checkpointer(run_dir).writer()
        by = f" of covr_jax {writer}" if writer not in (None, __version__) else ""
        raise ConfigError(f"{run_dir} holds a run{by} with other options: {changed[0]}{more}; choose another --run-dir")
    if not config.run.resume and checkpoint.Checkpointer(run_dir).steps():
        raise ConfigError(f"{run_dir} already holds a checkpoint and --run.resume is off; choose another --run-dir")
    return config
