"""Train one agent: ``python experiments/train.py --task cartpole_swingup --method covr --seed 1 --run-dir runs/a``.

``--num-seeds N`` trains N seeds from ``--seed`` on in one program, each in a run directory of its own. The same command
on the same run directory continues from the last checkpoint. SIGTERM, SIGUSR1, SIGHUP or Ctrl-C write
a checkpoint and exit with code 75; a second one ends the process at once.

Several processes train one run on all their devices: each is given the same command with ``--hosts HOST:PORT``, where
the first of them is to be reached, ``--num-hosts N`` and its ``--host-index I``, from 0; or with ``--hosts auto`` under
SLURM, Open MPI or on Cloud TPU.
"""

from __future__ import annotations

import contextlib
import shlex
import sys
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from covr_jax.commands import cli, program
from covr_jax.commands.hosts import HostOptions, split_hosts
from covr_jax.config import Config, ConfigError


def parse(arguments: list[str]) -> tuple[Config, Path, HostOptions]:
    """Returns the config, the run directory and where the processes of the run meet.

    What cannot be parsed ends the process, before JAX is imported.
    """
    run_dir, rest = cli.split_option(arguments, "run-dir")
    hosts, rest = split_hosts(rest)
    config = cli.parse_config(rest, program(), __doc__ or "")
    if hosts.address and config.run.num_seeds > 1:
        cli.fail("--hosts trains one run on several hosts, and --num-seeds several on one; leave one of them out")
    return config, Path(run_dir or f"runs/{config.task}/{config.method}/seed{config.seed}"), hosts


def main(config: Config, directory: Path, hosts: HostOptions) -> int:
    """Trains, writes the reports, and prints the final returns.

    Raises:
      Diverged: a run has; of several seeds the others have ended.
    """
    from covr_jax import runtime
    from covr_jax.report.data import read_config
    from covr_jax.vlm.gpu_share import torch_share

    cli.import_quietly(warp=cli.uses_warp(read_config(directory), config.renderer, config.env.physics))
    from covr_jax.runtime.kept import keep_programs

    runtime.configure()
    keep_programs()
    if share := torch_share(config):
        runtime.share_gpu(share)
    from covr_jax.commands.console import ConsoleReporter
    from covr_jax.commands.signals import stop_on_signals
    from covr_jax.io.reporter import Silent
    from covr_jax.runtime.hosts import is_first, joined
    from covr_jax.training.run import train
    from covr_jax.training.seeds import train_seeds
    from covr_jax.types import Diverged

    command = shlex.join(["python", *sys.argv] if sys.argv[0].endswith(".py") else [program(), *sys.argv[1:]])
    with joined(*hosts), stop_on_signals() as stop:  # also while the report is written: the run is over then
        cli.check_device()
        shown = ConsoleReporter(config.total_steps, stop) if is_first() else contextlib.nullcontext(Silent())
        with shown as reporter:
            if config.run.num_seeds > 1:
                ended = [(run.run_dir, how) for run, how in train_seeds(config, directory, reporter, command, stop)]
            else:
                ended = [(directory, train(config, directory, reporter, command, stop))]
        if is_first():
            _report(ended)
    if lost := [f"{where.name} has {how}" for where, how in ended if isinstance(how, Diverged)]:
        raise Diverged("; ".join(lost))
    return 0


def _report(ended: list[Any]) -> None:
    """Writes the reports of runs, given as directories and how each has ended, and prints the final returns."""
    from covr_jax.report import write_report
    from covr_jax.types import Diverged

    reports = [write_report(where) for where, _ in ended]
    for (_, how), report in zip(ended, reports, strict=True):
        if not isinstance(how, Diverged):
            print(
                f"final return {how.final_return:.1f} ± {how.final_return_std:.1f}"
                f" (random policy {how.random_return:.1f}) after {how.env_steps:,} env steps, {how.seconds:.0f} s"
            )
        print(f"report: {report}")


def run() -> NoReturn:
    """Runs ``main``; what a user can act on is one line and an exit code."""
    cli.safe_output()
    options = parse(sys.argv[1:])
    from covr_jax.io.checkpoint import CheckpointError
    from covr_jax.runtime.hosts import unheld
    from covr_jax.vlm.serving.protocol import PriorError

    with unheld():
        cli.guarded(partial(main, *options), ConfigError, CheckpointError, PriorError)


if __name__ == "__main__":
    run()
