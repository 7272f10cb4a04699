"""Trains several tasks, methods and seeds, some at a time; the same command continues where it was stopped.

    python experiments/sweep.py --methods sac rad covr covr:sac --seeds 1 2 3 --jobs 2 --preset cpu
    python experiments/sweep.py --tasks cheetah_run walker_walk --methods covr --gpus 0 1 --vlm /models/qwen

`covr:sac` is `--method covr --base sac`. Options that are not listed here go to every train.py. The output of a run is
in train.log in its directory; a run that fails is reported and the others continue. Finished runs are left as they are.
Jobs share the processors evenly, one job per GPU where GPUs are named.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path
from typing import NamedTuple, NoReturn

from covr_jax.commands import cli
from covr_jax.config import ConfigError

TRAIN = ("-m", "covr_jax.commands.train")  # what Python runs
_PACKAGES = str(Path(__file__).resolve().parents[2])  # the folder that holds this package


class Job(NamedTuple):
    """One run and the arguments of its train.py."""

    run_dir: Path
    arguments: list[str]


class Slot(NamedTuple):
    """A share of the machine."""

    processors: frozenset[int]
    environment: dict[str, str]


def command_of(job: Job) -> str:
    """Returns the command line of a job."""
    return shlex.join(["python", *TRAIN, *job.arguments])


def make_jobs(tasks: list[str], methods: list[str], seeds: list[int], root: Path, options: list[str]) -> list[Job]:
    """Returns a job per seed, task and method.

    Seeds vary slowest, so that a sweep that is stopped early has all methods.

    Args:
      tasks: names of tasks.
      methods: names of methods, or ``method:base``.
      seeds: integers.
      root: a run goes to root/task/method/seedN.
      options: further arguments of every train.py.
    """
    jobs = []
    for seed, task, method in product(seeds, tasks, methods):
        name, _, base = method.partition(":")
        run_dir = root / task / method.replace(":", "_") / f"seed{seed}"
        arguments = ["--task", task, "--method", name, *(["--base", base] if base else []), "--seed", str(seed)]
        jobs.append(Job(run_dir, [*arguments, *options, "--run-dir", str(run_dir)]))
    return jobs


def make_slots(jobs: int, gpus: list[str]) -> list[Slot]:
    """Divides the processors of this process evenly.

    Args:
      jobs: number of shares, where no GPU is named.
      gpus: values of CUDA_VISIBLE_DEVICES; one share each.

    Raises:
      ConfigError: more jobs than processors.
    """
    processors, count = sorted(os.sched_getaffinity(0)), len(gpus) or jobs
    if not 1 <= count <= len(processors):
        raise ConfigError(f"--jobs must be between 1 and {len(processors)}, the processors here, got {count}")
    shares = [frozenset(processors[i * len(processors) // count : (i + 1) * len(processors) // count])
              for i in range(count)]  # fmt: skip
    visible = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in gpus] or [{}] * count
    return [Slot(*slot) for slot in zip(shares, visible, strict=True)]


def refuse_own(options: list[str]) -> None:
    """Raises ConfigError where the options of every train.py hold one that differs between runs."""
    for name in ("task", "method", "base", "seed", "run-dir"):
        if any(option == f"--{name}" or option.startswith(f"--{name}=") for option in options):
            raise ConfigError(f"--{name} tells the runs apart and cannot be given to all of them; see --help")
    if {"--num-seeds", "--run.num-seeds"} & set(map(cli.option_name, options)):
        raise ConfigError("a job of a sweep trains one seed: give --seeds here, or --num-seeds to train.py")


def unfinished(jobs: list[Job]) -> list[Job]:
    """Returns the jobs without a result, after checking the options of all.

    Raises:
      ConfigError: options that cannot be used, or the directory of another configuration; nothing has run then.
    """
    configs = [cli.parse_config(cli.split_option(job.arguments, "run-dir")[1], "train.py", "") for job in jobs]
    cli.import_quietly(warp=False)  # only now: what cannot be parsed does not wait for JAX
    cli.check_device()
    from covr_jax.io.run_dir import check_config
    from covr_jax.training.resolve import comparable

    done = [check_config(config, job.run_dir, comparable).result for job, config in zip(jobs, configs, strict=True)]
    return [job for job, finished in zip(jobs, done, strict=True) if not finished]


def run_all(jobs: list[Job], slots: list[Slot]) -> list[Job]:
    """Runs jobs, one per slot at a time; returns those that failed."""
    waiting, free, failed = list(jobs), list(slots), []
    running: list[tuple[subprocess.Popen, Job, Slot]] = []
    ended = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # runs `finally`
    try:
        while waiting or running:
            while waiting and free:
                job, slot = waiting.pop(0), free.pop()
                running.append((_start(job, slot), job, slot))
                print(f"{job.run_dir}: started", flush=True)
            time.sleep(0.2)
            for entry in [entry for entry in running if entry[0].poll() is not None]:
                running.remove(entry)
                process, job, slot = entry
                free.append(slot)
                print(f"{job.run_dir}: {_last_words(job, process.returncode)}", flush=True)
                if process.returncode:
                    failed.append(job)
    finally:
        for process, _, _ in running:  # the sweep was stopped; runs resume from their checkpoints
            process.terminate()
        for process, _, _ in running:
            process.wait()
        signal.signal(signal.SIGTERM, ended)
    return failed


def _start(job: Job, slot: Slot) -> subprocess.Popen:
    job.run_dir.mkdir(parents=True, exist_ok=True)
    with (job.run_dir / "train.log").open("a") as log:
        print(f"$ {command_of(job)}", file=log, flush=True)
        command = [sys.executable, *TRAIN, *job.arguments]
        paths = os.pathsep.join(filter(None, (_PACKAGES, os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"PYTHONPATH": paths} | slot.environment
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
    # Set here and not by preexec_fn, which is unsafe beside JAX's threads; the child has started none of its own yet.
    with contextlib.suppress(ProcessLookupError):
        os.sched_setaffinity(process.pid, slot.processors)
    return process


def _last_words(job: Job, code: int) -> str:
    """Returns the last line of a run's log that tells how it ended."""
    lines = [line for line in (job.run_dir / "train.log").read_text(errors="replace").splitlines() if line.strip()]
    if code:
        return f"failed with exit code {code}: {lines[-1]}"
    return next((line for line in reversed(lines) if line.startswith("final return")), "finished")


def main() -> int:
    """Runs the sweep; returns 1 where a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tasks", nargs="+", default=["cartpole_swingup"], metavar="TASK")
    parser.add_argument("--methods", nargs="+", default=["covr"], metavar="METHOD[:BASE]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="a run goes to ROOT/TASK/METHOD/seedSEED")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time")
    parser.add_argument("--gpus", nargs="+", default=[], metavar="GPU", help="one run at a time on each of these")
    own, options = parser.parse_known_args()
    refuse_own(options)
    jobs = make_jobs(own.tasks, own.methods, own.seeds, own.root, options)
    slots, rest = make_slots(own.jobs, own.gpus), unfinished(jobs)
    print(f"{len(jobs)} runs, {len(jobs) - len(rest)} of them finished, {len(slots)} at a time", flush=True)
    failed = run_all(rest, slots)
    for job in failed:
        print(f"failed: {job.run_dir}, see its train.log", file=sys.stderr)
    return 1 if failed else 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    cli.guarded(main, ConfigError)
