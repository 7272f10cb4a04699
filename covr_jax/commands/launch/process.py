"""A run as a process of its own, which stops when its launcher does; nothing here imports JAX, Ray or submitit."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from covr_jax.commands.exit_codes import PREEMPTED, USAGE_ERROR
from covr_jax.commands.signals import STOP_AT_EOF
from covr_jax.config import ConfigError
from covr_jax.io.files import append_json
from covr_jax.io.run_dir import wait_until_free

TRAIN = ("-m", "covr_jax.commands.train")  # what Python runs
LOG, STARTS = "train.log", "starts.jsonl"  # files in the run directory
PACKAGES = str(Path(__file__).resolve().parents[3])  # the folder that holds this package
_PATIENCE_S = 600.0  # in which a run whose launcher was killed must have come to its next checkpoint
_POLL_S = 0.2


class Job(NamedTuple):
    """One run.

    Attributes:
      run_dir: its directory.
      arguments: of its train.py.
      program: what Python runs with them.
    """

    run_dir: Path
    arguments: list[str]
    program: tuple[str, ...] = TRAIN


class Ended(NamedTuple):
    """How a run ended: its exit code, and a line about it."""

    code: int
    words: str


class Killed(RuntimeError):
    """A run was ended from outside, by a signal; started again, it goes on from its checkpoint."""


def command_of(job: Job) -> str:
    """Returns the command line of a job."""
    return shlex.join(["python", *job.program, *job.arguments])


class RunProcess:
    """The process of a run; a context manager, which stops it where it still runs.

    Its output goes to ``train.log`` in the run directory; ``starts.jsonl`` says when and where it started. The end of
    its standard input asks it to stop with a checkpoint: ``stop`` closes that, and so does a launcher that is killed.
    An earlier process of the run, which may still be about to stop, is waited for.

    Args:
      job: the run.
      processors: that it may use; None: those of this process.
      environment: variables beside those of this process.

    Raises:
      ConfigError: another process holds the run directory.
      OSError: the directory or the process cannot be made.
    """

    def __init__(self, job: Job, processors: Iterable[int] | None = None, environment: Mapping[str, str] | None = None):
        job.run_dir.mkdir(parents=True, exist_ok=True)
        if not wait_until_free(job.run_dir, _PATIENCE_S):
            raise ConfigError(f"{job.run_dir} is in use by another process, which has not ended in {_PATIENCE_S:.0f} s")
        paths = os.pathsep.join(filter(None, (PACKAGES, os.environ.get("PYTHONPATH"))))
        variables = os.environ | {"PYTHONPATH": paths, STOP_AT_EOF: "1"} | dict(environment or {})
        with (job.run_dir / LOG).open("a") as log:
            print(f"$ {command_of(job)}", file=log, flush=True)
            self._process = subprocess.Popen(
                [sys.executable, *job.program, *job.arguments],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,  # Ctrl-C in a terminal is for the launcher
            )
        # Set here and not by preexec_fn, which is unsafe beside threads; the child has started none of its own yet.
        if processors is not None:
            with contextlib.suppress(ProcessLookupError):
                os.sched_setaffinity(self._process.pid, processors)
        start = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "host": socket.gethostname()}
        devices = variables.get("CUDA_VISIBLE_DEVICES")
        append_json(job.run_dir / STARTS, start | {"pid": self._process.pid, "cuda_visible_devices": devices})

    def __enter__(self) -> RunProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._process.poll()

    def wait(self) -> int:
        """Returns the exit code; minus a signal that ended the process."""
        while (code := self._process.poll()) is None:
            time.sleep(_POLL_S)  # not in waitpid, which does not return for the exception that ends a task of Ray
        return code

    def stop(self) -> None:
        """Asks the process to stop, and waits until it has; does nothing where it has ended.

        A handler of signals may call it, in the middle of ``wait``: it takes no lock of ``subprocess``.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)


def attempt(
    job: Job, folder: str, processors: list[int] | None = None, environment: Mapping[str, str] | None = None
) -> Ended:
    """Runs a job to its end; what a worker of Ray does.

    Args:
      job: the run.
      folder: in which the sweep was called, on a file system that all machines share; relative paths begin there.
      processors: as of ``RunProcess``.
      environment: likewise.

    Raises:
      Killed: a signal ended the process, or asked it to stop.
    """
    # Ray ends a task by SIGINT's handler. Shells start background commands of scripts with that signal ignored.
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        os.chdir(folder)
        with RunProcess(job, processors, environment) as process:
            code = process.wait()
    except ConfigError as error:
        return Ended(USAGE_ERROR, f"failed: {error}")
    except OSError as error:
        return Ended(USAGE_ERROR, f"failed on {socket.gethostname()}: {error}")
    if code < 0 or code == PREEMPTED:
        raise Killed("stopped by a signal" if code > 0 else f"killed by signal {-code}")
    return Ended(code, last_words(job.run_dir, code))


def last_words(run_dir: Path, code: int) -> str:
    """Returns the last line of a run's log that tells how it ended, with the exit code ``code``."""
    lines = [line for line in (run_dir / LOG).read_text(errors="replace").splitlines() if line.strip()]
    if code:
        return f"failed with exit code {code}: {lines[-1]}"
    return next((line for line in reversed(lines) if line.startswith("final return")), "finished")
