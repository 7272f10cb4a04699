"""Runs by Ray: a task each, on this machine or on a cluster, started again where it was killed."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from covr_jax.commands.launch.options import LaunchOptions, processor_shares
from covr_jax.commands.launch.process import PACKAGES, Ended, Job, Killed, attempt
from covr_jax.commands.launch.progress import Progress
from covr_jax.commands.signals import stop_on_signals
from covr_jax.config import ConfigError
from covr_jax.runtime.errors import one_line
from covr_jax.types import Preempted

_POLL_S = 1.0
_ASK_AGAIN_S = 10.0  # in which a run that was asked to stop has been heard of, or is asked again
_STORE_BYTES = 80 * 2**20  # results are two words each; Ray's least is 75 MiB
# Of a Ray that is started here; the user's own variables go first.
_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_memory_monitor_refresh_ms": "0",  # it would end and start again a run that needs much, without end
    "RAY_prestart_worker_first_driver": "0",  # a worker per processor; no more are needed than runs
    "RAY_kill_child_processes_on_worker_exit": "0",  # a run stops with a checkpoint when its worker is gone
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # Ray's next default; unset, Ray warns of it
}
_JAX_SHARE = 0.9  # of the share of a GPU that a run has


@contextlib.contextmanager
def connected(options: LaunchOptions) -> Iterator[None]:
    """Connects to a cluster, or starts Ray on this machine; where this process has a connection, that is used.

    Raises:
      ConfigError: there is no such cluster, or Ray cannot be started.
    """
    if ray.is_initialized():
        yield
        return
    common: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    handler = signal.getsignal(signal.SIGTERM)
    try:
        if options.address:
            ray.init(address=options.address, **common)
        else:
            with _environment(options.visible):
                ray.init(
                    address="local",
                    num_cpus=len(os.sched_getaffinity(0)),
                    num_gpus=len(options.visible) or None,
                    object_store_memory=_STORE_BYTES,
                    include_dashboard=False,
                    **common,
                )
    except (OSError, ValueError, RuntimeError) as error:
        where = f"no Ray cluster at {options.address}" if options.address else "Ray cannot be started"
        raise ConfigError(f"{where}: {one_line(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()
        signal.signal(signal.SIGTERM, handler)  # Ray has one of its own


@contextlib.contextmanager
def _environment(visible: Sequence[str]) -> Iterator[None]:
    """The variables that Ray's processes on this machine inherit."""
    before = dict(os.environ)
    paths = os.pathsep.join(filter(None, (PACKAGES, os.environ.get("PYTHONPATH"))))
    os.environ.update(_SETTINGS | before | {"PYTHONPATH": paths})
    if visible:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(visible)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def run_all(jobs: list[Job], options: LaunchOptions) -> list[Job]:
    """Runs jobs and shows their progress; returns those that failed.

    A run whose process, worker or machine was killed is started again, ``options.retries`` times; one that ends with an
    error of its own is not.

    Raises:
      ConfigError: no cluster, or no room for a run.
      Preempted: a signal asked to stop; the runs were asked to stop with checkpoints. One may still be writing its own.
    """
    failed: list[Job] = []
    with connected(options), stop_on_signals() as stop, Progress(jobs) as progress:
        needed, shares = _needs(options, len(jobs))
        if not _has_room(needed):
            progress.say(f"no machine of the cluster has {needed}: the runs wait for one")
        again: dict[str, Any] = {"max_retries": options.retries, "retry_exceptions": [Killed]}
        task: Any = ray.remote(**again)(attempt)
        gpus = needed.get("GPU", 0.0)
        waiting, free, running = deque(jobs), deque(shares), {}
        while (waiting or running) and not stop():
            while waiting and free:
                job, share = waiting.popleft(), free.popleft()
                cpus = len(share) if share else needed["CPU"]
                placed = task.options(num_cpus=cpus, num_gpus=gpus, name=str(job.run_dir))
                running[placed.remote(job, os.getcwd(), share, _gpu_share(gpus))] = job, share
            done, _ = ray.wait(list(running), timeout=_POLL_S)
            progress.update()
            for reference in done:
                job, share = running.pop(reference)
                free.append(share)
                ended = _ended(reference, options.retries)
                progress.end(job, ended)
                failed += [job] if ended.code else []
        if waiting or running:
            left = list(running)
            while left:  # a worker can miss the exception that asks it, for instance while it starts its process
                for reference in left:
                    ray.cancel(reference)
                _, left = ray.wait(left, num_returns=len(left), timeout=_ASK_AGAIN_S)
            raise Preempted(f"stopped by {stop()} with {len(waiting) + len(running)} of {len(jobs)} runs to go")
    return failed


def _needs(options: LaunchOptions, runs: int) -> tuple[dict[str, float], list[list[int] | None]]:
    """What a run needs, as Ray names it, and a share of the processors per run at a time (None: not ours to divide).

    Raises:
      ConfigError: no room for a run on this machine.
    """
    gpus_here = ray.cluster_resources().get("GPU", 0.0)
    gpus = (1.0 if gpus_here else 0.0) if options.gpus is None else options.gpus
    needed = {"CPU": float(options.cpus or 1)} | ({"GPU": gpus} if gpus else {})
    if options.address:
        return needed, [None] * min(options.jobs or runs, runs)
    if gpus > gpus_here:
        raise ConfigError(f"--gpus-per-run {gpus:g} is more than the {gpus_here:g} GPUs that Ray finds here")
    jobs = options.jobs
    if gpus:
        most = int(gpus_here / gpus)
        jobs = min(jobs or len(os.sched_getaffinity(0)) // (options.cpus or 1), most)
    return needed, [*processor_shares(jobs, options.cpus)]


def _has_room(needed: Mapping[str, float]) -> bool:
    """Whether some machine is large enough for a run, be it free or not."""
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(machine.get(name, 0.0) >= amount for name, amount in needed.items()) for machine in machines)


def _gpu_share(gpus: float) -> dict[str, str]:
    """Variables of runs that share a GPU: each would take three quarters of its memory."""
    if not 0.0 < gpus < 1.0 or "XLA_PYTHON_CLIENT_MEM_FRACTION" in os.environ:
        return {}
    return {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{_JAX_SHARE * gpus:.3f}"}


def _ended(reference: ray.ObjectRef, retries: int) -> Ended:
    """How a task ended that Ray does not start again."""
    try:
        return ray.get(reference)
    except RayTaskError as error:
        if not isinstance(error.cause, Killed):
            return Ended(1, f"failed on its worker: {one_line(error.cause)}")
        reason = str(error.cause)
    except RayError as error:
        reason = f"its worker was lost ({one_line(error)})"
    return Ended(1, f"failed: {reason}, as often as it was started ({retries + 1})")
