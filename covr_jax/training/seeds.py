"""``train_seeds()``: trains several seeds in one program, each in a run directory of its own, as if trained alone."""

from __future__ import annotations

import dataclasses
import re
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from covr_jax.config import WITH_VLM, Config, ConfigError
from covr_jax.config.convert import differences
from covr_jax.config.validate import validate
from covr_jax.envs import HOST_TASKS
from covr_jax.io.reporter import Reporter
from covr_jax.io.run_dir import GoingOn, Result, check_config, claim
from covr_jax.runtime.rng import MAX_SEED
from covr_jax.training.resolve import comparable, resolve
from covr_jax.training.run import record_divergence, record_result, record_start, train
from covr_jax.training.seed_group import SeedGroup
from covr_jax.types import Diverged, Preempted, Stop, never


class SeedRun(NamedTuple):
    """One seed of a group."""

    config: Config
    run_dir: Path


def seed_runs(config: Config, run_dir: Path) -> list[SeedRun]:
    """The runs of a group, ``config.run.num_seeds`` from ``config.seed`` on, and their directories.

    ``run_dir`` holds a directory ``seedN`` for each; where it is itself named after the first seed, it is that seed's,
    and the others are beside it.

    Raises:
      ConfigError: a directory that is named after another seed, or that holds a run; or seeds beyond the last one.
    """
    first, count = config.seed, config.run.num_seeds
    if first + count - 1 > MAX_SEED:
        raise ConfigError(f"--num-seeds {count} from --seed {first:,} on goes beyond the last seed, {MAX_SEED:,}")
    root, named = run_dir, re.fullmatch(r"seed(\d+)", run_dir.name)
    if named and int(named[1]) != first:
        raise ConfigError(
            f"{run_dir} is named after another seed than the first, {first}; give --seed {named[1]}, or"
            f" {run_dir.parent}, in which every seed has a directory"
        )
    if named:
        root = run_dir.parent
    if (root / "config.json").exists():
        raise ConfigError(f"{root} holds a run, and --num-seeds needs a directory of runs; choose another --run-dir")
    names = [run_dir.name if named and seed == first else f"seed{seed}" for seed in range(first, first + count)]
    return [SeedRun(_config_of(config, first + i), root / name) for i, name in enumerate(names)]


def _config_of(config: Config, seed: int) -> Config:
    """The config of one seed of a group, which is that of a run of its own with the group's physics."""
    env, run = config.env, dataclasses.replace(config.run, num_seeds=1)
    return dataclasses.replace(
        config, seed=seed, env=dataclasses.replace(env, physics=resolve(config).env.physics), run=run
    )


def check_seeds(config: Config) -> None:
    """Refuses what cannot be trained for several seeds in one program.

    Args:
      config: resolved.

    Raises:
      ConfigError: a method with a VLM, an environment or renderer outside of compiled programs, or an option that does
        not go with several seeds.
    """
    instead = "train such runs with experiments/sweep.py"
    if config.method in WITH_VLM:
        raise ConfigError(f"--num-seeds trains methods without a VLM, and {config.method} has one; {instead}")
    if config.task in HOST_TASKS:
        raise ConfigError(f"--num-seeds needs compiled environments, and {config.task} runs on the host; {instead}")
    if config.env.physics != "mjx":
        engine = f"--env.physics {config.env.physics}"
        raise ConfigError(f"--num-seeds needs --env.physics mjx, got {engine}; change it, or {instead}")
    if config.renderer != "jax":
        raise ConfigError(f"--num-seeds needs --renderer jax, got {config.renderer}; change it, or {instead}")
    if config.run.devices > 1:
        raise ConfigError(
            "--num-seeds puts whole seeds on the devices, as many on each, and --devices splits one run; leave one out"
        )
    if config.replay.storage != "device":
        raise ConfigError(f"--num-seeds needs --replay.storage device; change it, or {instead}")
    if config.replay.sampling == "elite":
        raise ConfigError(f"--replay.sampling elite chooses samples on the host for one run; {instead}")
    if config.replay.demonstrations is not None:
        raise ConfigError(f"--num-seeds takes no --demonstrations; {instead}")
    if "wandb" in config.run.log:
        raise ConfigError(f"--log wandb takes one run per process; leave it out, or {instead}")


def train_seeds(
    config: Config, run_dir: Path, reporter: Reporter, command: str = "", stop: Stop = never
) -> list[tuple[SeedRun, Result | Diverged]]:
    """Trains, or goes on training, ``config.run.num_seeds`` seeds; returns how each of them ended.

    Every directory is that of a run of its own, ``config.json`` included. Seeds that are finished are left as they are,
    and where one is left it is trained alone.

    Args:
      config: of the group.
      run_dir: see ``seed_runs``.
      reporter: shows progress.
      command: recorded with the results.
      stop: asked between chunks; a reason, to stop there with a checkpoint of every seed.

    Raises:
      ConfigError: options that cannot be used together, or a directory of another run.
      CheckpointError: a run's checkpoint cannot be read or written.
      Preempted: ``stop`` gave a reason; checkpoints have been written.
    """
    validate(config)
    check_seeds(resolve(config))
    runs = seed_runs(config, run_dir)
    ended: dict[SeedRun, Result | Diverged] = {}
    with ExitStack() as claims:
        going_on: dict[SeedRun, GoingOn] = {}
        for run in runs:
            claims.enter_context(claim(run.run_dir))
            going_on[run] = check_config(run.config, run.run_dir, comparable)
            if finished := going_on[run].result:
                reporter.message(f"{run.run_dir} holds a finished run; nothing to do")
                ended[run] = finished
        left = [run for run in runs if run not in ended]
        if len(left) > 1:
            ended |= _train_group(left, going_on, reporter, command, stop)
    if len(left) == 1:
        ended[left[0]] = _train_alone(left[0], reporter, command, stop)
    return [(run, ended[run]) for run in runs]


def _train_group(
    runs: list[SeedRun], going_on: dict[SeedRun, GoingOn], reporter: Reporter, command: str, stop: Stop
) -> dict[SeedRun, Result | Diverged]:
    configs = [resolve(going_on[run].config) for run in runs]
    for run, config in zip(runs, configs, strict=True):
        if others := differences(dataclasses.replace(configs[0], seed=config.seed), config):
            raise ConfigError(
                f"{run.run_dir} began with other options than {runs[0].run_dir}: {'; '.join(others)}; go on with each"
                " by a command of its own"
            )
    group = SeedGroup(configs, [run.run_dir for run in runs], reporter, stop)
    for run, member in zip(runs, group.members, strict=True):
        record_start(member, going_on[run].changes)
    ended: dict[SeedRun, Result | Diverged] = {}
    try:
        for member, how in group.run():
            run = runs[group.members.index(member)]
            if isinstance(how, Diverged):
                ended[run] = record_divergence(member, how, command)
                member.reporter.message(str(ended[run]))
            else:
                ended[run] = how
                record_result(member, how, command)
    except Preempted as error:
        at = max(member.env_steps for member in group.running)
        raise Preempted(f"stopped by {error} at {at:,} env steps") from error
    return ended


def _train_alone(run: SeedRun, reporter: Reporter, command: str, stop: Stop) -> Result | Diverged:
    try:
        return train(run.config, run.run_dir, reporter, command, stop)
    except Diverged as error:
        return error
