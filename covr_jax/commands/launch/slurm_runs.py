"""Runs as jobs of SLURM, by submitit: an array with a job per run, which checkpoints and is queued again when asked to.

SLURM sends SIGUSR1 before the time is up or the job is preempted, to all processes of the job: the run stops with a
checkpoint, and submitit queues the job again. With SIGTERM alone it is the same.
"""

from __future__ import annotations

import shlex
import signal
from pathlib import Path
from typing import Any

from submitit import SlurmExecutor
from submitit.helpers import DelayedSubmission

from covr_jax.commands.exit_codes import PREEMPTED
from covr_jax.commands.launch.options import LaunchOptions
from covr_jax.commands.launch.process import PACKAGES, Job, RunProcess, last_words
from covr_jax.config import ConfigError
from covr_jax.runtime.errors import one_line
from covr_jax.runtime.signals import STOPPING

_SIGNAL = signal.SIGUSR1  # at which submitit queues a job again; a run stops at it, as it does not at submitit's own
_DELAY_S = 120  # before the end, to finish a chunk or an evaluation and to write a checkpoint
_TIMEOUTS = 1000  # how often a job may use up its time; what ends a run is its number of env steps


class SlurmRun:
    """What a job of SLURM does.

    Args:
      job: the run.
      retries: how often it is started again where a signal killed it and the job has not been asked to end.
    """

    def __init__(self, job: Job, retries: int):
        self.job, self.retries = job, retries
        self._process: RunProcess | None = None

    def __call__(self) -> str:
        """Runs to the end; returns how it ended. A run that fails ends the job with its exit code."""
        code = 0
        for _ in range(self.retries + 1):
            with RunProcess(self.job) as self._process:
                code = self._process.wait()
            if code >= 0 or -code in STOPPING:
                break
        if code == PREEMPTED or -code in STOPPING:
            signal.raise_signal(_SIGNAL)  # submitit's handler calls `checkpoint`, queues the job again and ends it
        words = last_words(self.job.run_dir, code)
        print(f"{self.job.run_dir}: {words}", flush=True)
        if code:
            raise SystemExit(code if code > 0 else 1)
        return words

    def checkpoint(self) -> DelayedSubmission:
        """Waits until the run has written a checkpoint; what submitit calls, and queues again what this returns."""
        if self._process:
            self._process.stop()
        return DelayedSubmission(SlurmRun(self.job, self.retries))


def submit(jobs: list[Job], options: LaunchOptions, folder: Path) -> list[str]:
    """Submits runs as one array; returns the ids of their jobs.

    Args:
      jobs: the runs.
      options: ``jobs`` is the most at a time; ``cpus`` and ``gpus`` are those of a job.
      folder: for submitit's files and logs, on a file system that all machines share.

    Raises:
      ConfigError: unknown parameters, or SLURM is not here or does not take the jobs.
    """
    try:
        executor = SlurmExecutor(folder, max_num_timeout=_TIMEOUTS)
        executor.update_parameters(**parameters(options))
        submitted = executor.submit_array([SlurmRun(job, options.retries) for job in jobs])
    except (RuntimeError, ValueError, TypeError, OSError) as error:
        raise ConfigError(f"SLURM does not take the runs: {one_line(error)}") from error
    return [job.job_id for job in submitted]


def parameters(options: LaunchOptions) -> dict[str, Any]:
    """Returns the parameters of submitit's executor.

    Raises:
      ConfigError: one that is no KEY=VALUE, or no time; submitit's is five minutes.
    """
    given: dict[str, Any] = {}
    for text in options.slurm:
        name, sign, value = text.partition("=")
        if not (name and sign and value):
            raise ConfigError(f"--slurm takes KEY=VALUE, got {text!r}")
        given[name] = int(value) if value.isdecimal() else value
    if not isinstance(given.get("time"), int):
        raise ConfigError("--launcher slurm needs --slurm time=MINUTES, a whole number: the longest that a job lasts")
    if options.gpus is not None and not options.gpus.is_integer():
        raise ConfigError(f"SLURM gives whole GPUs to a job; --gpus-per-run {options.gpus:g} is none")
    # The signal is set here and not by submitit, which reads its variable when it is imported.
    delay = given.pop("signal_delay_s", _DELAY_S)
    name = _SIGNAL.name.removeprefix("SIG")
    setup = [f"export SUBMITIT_PREEMPT_SIGNAL={name}", f"export PYTHONPATH={shlex.quote(PACKAGES)}:$PYTHONPATH"]
    own: dict[str, Any] = {"job_name": "covr", "setup": [*setup, *([given.pop("setup")] if "setup" in given else [])]}
    own["additional_parameters"] = {"signal": f"{name}@{delay}", "requeue": True}
    for parameter, value in (
        ("array_parallelism", options.jobs),
        ("cpus_per_task", options.cpus),
        ("gpus_per_node", None if options.gpus is None else int(options.gpus)),
    ):
        if value is not None:
            own[parameter] = value
    return own | given
