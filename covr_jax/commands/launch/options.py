"""How runs are launched: options of the command line, and shares of a machine."""

from __future__ import annotations

import argparse
import importlib.util
import os
from typing import NamedTuple

from covr_jax.config import ConfigError

LAUNCHERS = {"ray": "ray", "slurm": "submitit"}  # and the package that each needs
_REFUSED = {"slurm": ("address", "visible"), "ray": ("slurm",)}  # options that another launcher has


class LaunchOptions(NamedTuple):
    """How runs are launched.

    Attributes:
      launcher: one of ``LAUNCHERS``.
      jobs: the most runs at a time; None: 1 on a CPU, else as many as there are GPUs for.
      cpus: processors of a run; None: an even share of this machine, and 1 on a cluster.
      gpus: GPUs of a run, a share below 1; None: 1 where there are GPUs.
      visible: values of CUDA_VISIBLE_DEVICES that this machine's runs may use; empty: all GPUs.
      retries: how often a run that was killed is started again.
      address: of a Ray cluster; None: Ray is started on this machine.
      slurm: parameters of submitit's executor.
    """

    launcher: str = "ray"
    jobs: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    visible: tuple[str, ...] = ()
    retries: int = 3
    address: str | None = None
    slurm: tuple[str, ...] = ()


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of ``LaunchOptions``."""
    group = parser.add_argument_group("launching")
    group.add_argument("--jobs", type=int, metavar="N", help="at most N runs at a time; default: 1, or one per GPU")
    group.add_argument("--gpus", nargs="+", default=[], metavar="GPU", help="of this machine, for the runs (all)")
    group.add_argument("--cpus-per-run", type=int, metavar="N", help="processors; default: shared evenly by the runs")
    shown = "GPUs, or a share such as 0.25; default: 1 where there are GPUs"
    group.add_argument("--gpus-per-run", type=float, metavar="N", help=shown)
    shown = "how often a run whose process was killed is started again (3)"
    group.add_argument("--retries", type=int, default=3, metavar="N", help=shown)
    group.add_argument("--address", metavar="HOST:PORT", help="of a Ray cluster, or auto; default: this machine")
    group.add_argument("--launcher", choices=tuple(LAUNCHERS), default="ray", help="slurm: an array of jobs (ray)")
    shown = "parameters of submitit's SlurmExecutor, such as partition=gpu time=240"
    group.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help=shown)


def read_options(own: argparse.Namespace) -> LaunchOptions:
    """Returns what a command line says of ``add_options``.

    Raises:
      ConfigError: options that do not go together, or that this machine has no room for.
    """
    options = LaunchOptions(
        own.launcher,
        own.jobs,
        own.cpus_per_run,
        own.gpus_per_run,
        tuple(own.gpus),
        own.retries,
        own.address,
        tuple(own.slurm),
    )
    for name in _REFUSED[options.launcher]:
        if getattr(options, name):
            raise ConfigError(f"--{name.replace('visible', 'gpus')} is not for --launcher {options.launcher}")
    if options.address and options.visible:
        raise ConfigError("--gpus names those of this machine and --address is a cluster; give --gpus-per-run")
    if options.retries < 0:
        raise ConfigError(f"--retries must be at least 0, got {options.retries}")
    for name, value in (("--jobs", options.jobs), ("--cpus-per-run", options.cpus)):
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}")
    if options.gpus is not None and not (0 <= options.gpus <= 1 or (options.gpus > 1 and options.gpus.is_integer())):
        raise ConfigError(f"--gpus-per-run must be a share up to 1 or a whole number, got {options.gpus:g}")
    if options.launcher == "ray" and not options.address:
        processor_shares(options.jobs, options.cpus)
    return options


def check_installed(options: LaunchOptions) -> None:
    """Raises ConfigError where the launcher's package is not installed."""
    package = LAUNCHERS[options.launcher]
    if importlib.util.find_spec(package) is None:
        raise ConfigError(f"several runs need the package {package}: pip install 'covr_jax[scale]'")


def processor_shares(jobs: int | None, cpus: int | None) -> list[list[int]]:
    """Divides the processors of this process.

    Args:
      jobs: number of shares; None: 1, or as many as there are processors for.
      cpus: processors of each; None: all, evenly divided.

    Raises:
      ConfigError: more than there are.
    """
    processors = sorted(os.sched_getaffinity(0))
    total = len(processors)
    if cpus and cpus > total:
        raise ConfigError(f"--cpus-per-run must be between 1 and {total}, the processors here, got {cpus}")
    most = total // (cpus or 1)
    count = jobs or (most if cpus else 1)
    if count > most:
        each = f" with --cpus-per-run {cpus}" if cpus else ""
        raise ConfigError(f"--jobs must be between 1 and {most}, the processors here{each}, got {count}")
    if cpus:
        return [processors[i * cpus : (i + 1) * cpus] for i in range(count)]
    return [processors[i * total // count : (i + 1) * total // count] for i in range(count)]
