"""Trains several tasks, methods and seeds, some at a time; the same command continues where it was stopped.

    python experiments/sweep.py --methods sac rad covr covr:sac --seeds 1 2 3 --jobs 2 --preset cpu
    python experiments/sweep.py --tasks cheetah_run walker_walk --methods covr --gpus 0 1 --vlm /models/qwen
    python experiments/sweep.py --methods rad --address auto --gpus-per-run 0.25
    python experiments/sweep.py --methods rad --launcher slurm --slurm partition=gpu time=240

`covr:sac` is `--method covr --base sac`. Options that are not listed here go to every train.py. The output of a run is
in train.log in its directory; a run that fails is reported and the others continue, one that was killed goes on from
its checkpoint. Finished runs are left as they are. Runs share the processors evenly, a GPU each where there are GPUs.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from itertools import product
from pathlib import Path
from typing import NoReturn

from covr_jax.commands import cli
from covr_jax.commands.launch.options import LaunchOptions, add_options, check_installed, read_options
from covr_jax.commands.launch.process import Job
from covr_jax.config import Config, ConfigError


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
    from covr_jax.io.run_dir import check_config
    from covr_jax.training.resolve import comparable

    def anywhere(config: Config) -> Config:
        """Asks no device for the physics: JAX would take memory of a GPU, which is for the runs."""
        physics = "mjx" if config.env.physics == "auto" else config.env.physics
        return comparable(dataclasses.replace(config, env=dataclasses.replace(config.env, physics=physics)))

    done = [check_config(config, job.run_dir, anywhere).result for job, config in zip(jobs, configs, strict=True)]
    return [job for job, finished in zip(jobs, done, strict=True) if not finished]


def run_all(jobs: list[Job], options: LaunchOptions, root: Path) -> list[Job]:
    """Runs the jobs that have not finished; returns those that failed.

    Args:
      jobs: the runs.
      options: how they are launched. SLURM gets them as jobs, and nothing waits for these.
      root: folder of the runs.

    Raises:
      ConfigError: as ``unfinished``; or the launcher is not installed or not to be reached.
      Preempted: a signal asked to stop.
    """
    check_installed(options)
    rest = unfinished(jobs)
    print(f"{len(jobs)} runs, {len(jobs) - len(rest)} of them finished", flush=True)
    if not rest:
        return []
    if options.launcher == "slurm":
        from covr_jax.commands.launch.slurm_runs import submit

        ids = submit(rest, options, root / "slurm")
        print(f"jobs {ids[0]} to {ids[-1]} are submitted; --show says how far the runs are")
        return []
    from covr_jax.commands.launch import ray_runs

    return ray_runs.run_all(rest, options)


def main() -> int:
    """Runs the sweep; returns 1 where a run failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--tasks", nargs="+", default=["cartpole_swingup"], metavar="TASK")
    parser.add_argument("--methods", nargs="+", default=["covr"], metavar="METHOD[:BASE]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], metavar="SEED")
    parser.add_argument("--root", type=Path, default=Path("runs"), help="a run goes to ROOT/TASK/METHOD/seedSEED")
    parser.add_argument("--show", action="store_true", help="print how far the runs are and run nothing")
    add_options(parser)
    own, options = parser.parse_known_args()
    refuse_own(options)
    jobs = make_jobs(own.tasks, own.methods, own.seeds, own.root, options)
    if own.show:
        from covr_jax.commands.launch.progress import describe

        print("\n".join(describe(job) for job in jobs))
        return 0
    failed = run_all(jobs, read_options(own), own.root)
    for job in failed:
        print(f"failed: {job.run_dir}, see its train.log", file=sys.stderr)
    return 1 if failed else 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    cli.guarded(main, ConfigError)
