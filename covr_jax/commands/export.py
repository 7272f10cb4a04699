"""Writes a run's policy to one file, which acts without the run, Torch or MuJoCo; or its episodes as a dataset.

    python experiments/export.py runs/cartpole_swingup/covr/seed1
    python experiments/export.py runs/cartpole_swingup/covr/seed1 --checkpoint best --stablehlo cpu cuda
    python experiments/export.py runs/cartpole_swingup/covr/seed1 --dataset people/cartpole-v0

`covr_jax.load_policy(FILE).act(observation)` loads and uses it. With `--stablehlo` a program beside it holds the same
policy for `jax.export.deserialize`, which needs JAX alone.

With `--dataset`, in place of the policy, the whole episodes in the replay of a checkpoint become a Minari dataset.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from typing import Literal, NoReturn

from covr_jax.commands import cli
from covr_jax.config import Config, ConfigError
from covr_jax.io.checkpoint import BEST
from covr_jax.report.data import read_config

PLATFORMS = ("cpu", "cuda", "tpu")


def parse() -> argparse.Namespace:
    """Parses the command line; what cannot be parsed ends the process, before JAX is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="directory that train.py wrote")
    cli.add_checkpoint_option(parser)
    parser.add_argument("--output", type=Path, metavar="FILE", help="default: policy.safetensors in the run directory")
    shown = "write a program for these platforms too, any batch size"
    parser.add_argument("--stablehlo", nargs="+", choices=PLATFORMS, default=[], metavar="PLATFORM", help=shown)
    shown = "write the episodes: a new directory, or a name in Minari's store, which ends in -v and a number"
    parser.add_argument("--dataset", metavar="DATASET", help=shown)
    options = parser.parse_args()
    if options.dataset is not None and (options.output or options.stablehlo):
        cli.fail("--dataset writes no policy: leave --output and --stablehlo out")
    if options.dataset is not None and options.checkpoint == BEST:
        cli.fail("--checkpoint best keeps a policy without its replay: give --dataset env steps of another checkpoint")
    return options


def write_policy(
    run_dir: Path, checkpoint: int | Literal["best"] | None, output: Path
) -> tuple[Config, dict[str, int]]:
    """Writes the policy of a checkpoint, or of the newest, to a file.

    Returns:
      Config of the run; the policy's env steps and its action repeat.

    Raises:
      ConfigError, CheckpointError: no run there, or one that cannot be read.
    """
    from covr_jax.policy import save_policy
    from covr_jax.training.restore import load_run

    config, programs, state = load_run(run_dir, checkpoint)
    env = programs.parts.env
    programs.close()
    about = {"env_steps": int(state.progress.transitions) * env.action_repeat, "action_repeat": env.action_repeat}
    save_policy(output, config, state.learner.params, env.action_dim, about)
    return config, about


def write_episodes(run_dir: Path, env_steps: int | None, dataset: str) -> None:
    """Writes the episodes of a checkpoint, or of the newest, as a Minari dataset, and prints what was written.

    Raises:
      ConfigError, CheckpointError: as ``training.recorded.export_episodes``.
    """
    from covr_jax.training.recorded import export_episodes, tell

    made = export_episodes(run_dir, env_steps, dataset)
    where = f"{made.about['task']} at {made.about['env_steps']:,} env steps"
    print(f"{made.path}: {made.episodes:,} episodes of {made.steps:,} steps, {where}")
    print(f"left out: {tell(made.left_out)}")


def main() -> int:
    """Exports, and prints what was written."""
    options = parse()
    if options.stablehlo and not importlib.util.find_spec("flatbuffers"):
        cli.fail("--stablehlo needs the package flatbuffers: pip install flatbuffers, or 'covr_jax[hub]'")

    from covr_jax import runtime

    cli.import_quietly(warp=cli.uses_warp(read_config(options.run_dir)))
    runtime.configure()
    cli.check_device()
    if options.dataset is not None:
        write_episodes(options.run_dir, options.checkpoint, options.dataset)
        return 0
    from covr_jax.policy import FILE, load_policy

    output = options.output or options.run_dir / FILE
    config, about = write_policy(options.run_dir, options.checkpoint, output)
    print(f"{output}: {output.stat().st_size:,} bytes, {config.task} at {about['env_steps']:,} env steps")
    if options.stablehlo:
        program = output.with_suffix(".stablehlo")
        program.write_bytes(load_policy(output).export(tuple(options.stablehlo)))
        print(f"{program}: {program.stat().st_size:,} bytes, for {', '.join(options.stablehlo)}")
    return 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    from covr_jax.io.checkpoint import CheckpointError

    cli.guarded(main, ConfigError, CheckpointError)
