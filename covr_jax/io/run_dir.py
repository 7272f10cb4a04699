"""A run directory: which process may write there, and which config it belongs to."""

from __future__ import annotations

import fcntl
import json
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from covr_jax import __version__
from covr_jax import config as configuration
from covr_jax.config import Config, ConfigError
from covr_jax.config.resume import going_on
from covr_jax.io import checkpoint
from covr_jax.runtime.errors import one_line


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

    On a file system without locks nothing is held, and a warning says so.

    Raises:
      ConfigError: another process holds it, or it cannot be made or written to.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = (run_dir / ".lock").open("a+")
    except OSError as error:
        raise ConfigError(f"{run_dir} cannot be used: {error.strerror}; choose another --run-dir") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"{run_dir} is in use by another process; choose another --run-dir") from error
        except OSError as error:
            warnings.warn(f"{run_dir} cannot be locked ({error.strerror}): start one process at a time", stacklevel=3)
        yield


def wait_until_free(run_dir: Path, seconds: float) -> bool:
    """Waits until no process holds an existing run directory.

    Returns:
      False where one still does after ``seconds``.
    """
    end = time.monotonic() + seconds
    with (run_dir / ".lock").open("a+") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > end:
                    return False
                time.sleep(0.2)
            except OSError:  # no locks here: `claim` will say so
                return True
            else:
                return True


class GoingOn(NamedTuple):
    """What a command does with a run directory."""

    config: Config
    changes: dict[str, list[Any]]  # free options that differ from the run's, as {name: [before, after]}
    result: Result | None  # of a finished run of which no more steps are asked for


def read_options(run_dir: Path) -> dict[str, Any]:
    """Reads the config.json of a run directory, for ``config.from_dict``.

    Raises:
      ConfigError: it cannot be read, or holds something else; one line.
    """
    path = run_dir / "config.json"
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(options, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read: {one_line(error)}") from error
    return options


def check_config(config: Config, run_dir: Path, resolve: Callable[[Config], Config]) -> GoingOn:
    """Compares a config with the config.json of a run directory, which belongs to one configuration.

    Budget, logging, evaluations and the like may change (``config.resume.FREE``); what the command leaves open and the
    machine or the budget would decide stays as the run began.

    Args:
      config: of the run that is about to start.
      run_dir: may lack a config.json; nothing is compared then.
      resolve: fills in what the two leave open and what they do not read (``training.resolve.comparable``).

    Raises:
      ConfigError: the directory of another configuration, with all differences; or fewer steps are asked for than the
        run has made.
    """
    path = run_dir / "config.json"
    if not path.exists():
        return GoingOn(config, {}, None)
    checkpointer = checkpoint.Checkpointer(run_dir)
    try:
        written = read_options(run_dir)
    except ConfigError as error:
        raise ConfigError(f"{error}; choose another --run-dir") from error
    try:
        recorded = configuration.from_dict(written)
        config, changes = going_on(recorded, config, resolve)
    except ConfigError as error:
        writer = checkpointer.writer()
        by = f" of covr_jax {writer}" if writer not in (None, __version__) else ""
        raise ConfigError(f"{run_dir} holds a run{by} with other options: {error}; choose another --run-dir") from error
    done = checkpointer.steps()
    if done and not config.run.resume:
        raise ConfigError(f"{run_dir} already holds a checkpoint and --run.resume is off; choose another --run-dir")
    if done and config.total_steps < min(done[-1], recorded.total_steps):
        raise ConfigError(
            f"{run_dir} has trained for {done[-1]:,} env steps, more than --total-steps {config.total_steps:,}"
        )
    return GoingOn(config, changes, read_result(run_dir) if config.total_steps <= recorded.total_steps else None)


def read_result(run_dir: Path) -> Result | None:
    """The result of a finished run; None where there is none, or a damaged one: the run then evaluates again."""
    try:
        values = json.loads((run_dir / "result.json").read_text(encoding="utf-8"))
        result = Result(*(values[name] for name in Result._fields))
        return result if all(isinstance(number, int | float) for number in result) else None
    except (OSError, ValueError, TypeError, KeyError):
        return None
