"""Evaluates a trained policy, in its own task, in another one, or in dm_control's own version of its task.

    python experiments/evaluate.py runs/cartpole_swingup/covr/seed1 --episodes 10
    python experiments/evaluate.py runs/carla_highway/covr/seed1 --task carla_ghost_pedestrian
    python experiments/evaluate.py runs/cartpole_swingup/covr/seed1 --backend dm_control

No VLM is loaded. In another task the policy has images of the size it was trained with, at its own action repeat.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn, get_args

import numpy as np

from covr_jax.commands import cli
from covr_jax.config import ConfigError, Distractors, RendererName
from covr_jax.io.files import to_json
from covr_jax.report import shown_method
from covr_jax.report.data import read_config

if TYPE_CHECKING:
    from covr_jax.training.evaluation import Policy
    from covr_jax.training.programs import Programs

BACKENDS = ("own", "dm_control")


def parse() -> argparse.Namespace:
    """Parses the command line; what cannot be parsed ends the process, before JAX is imported."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="directory that train.py wrote")
    parser.add_argument("--task", default=None, help="evaluate in this task; default: that of the run")
    parser.add_argument("--episodes", type=int, default=10, help="episodes, each from its own start state")
    parser.add_argument("--number", type=int, default=0, help="which set of start states")
    cli.add_checkpoint_option(parser)
    shown = "also write states of the episodes and the policy's actions there (npz), for train.py --vlm.expert-states"
    parser.add_argument("--states", type=Path, default=None, metavar="FILE", help=shown)
    shown = "own: covr_jax's tasks; dm_control: its own physics, starts and OpenGL pictures"
    parser.add_argument("--backend", default="own", choices=BACKENDS, help=shown)
    shown = "draws the observations; default: that of the run; dm_control has gl alone"
    parser.add_argument("--renderer", default=None, choices=get_args(RendererName), help=shown)
    names = get_args(Distractors)
    parser.add_argument("--distractors", default=None, choices=names, help="visual changes; default: those of the run")
    parser.add_argument("--video", type=Path, default=None, help="also record one episode to this mp4")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--random", action="store_true", help="uniform actions in place of the policy's")
    others.add_argument("--constant", type=float, nargs="+", default=None, metavar="A", help="always this action")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    arguments = parser.parse_args()
    if arguments.number < 0:
        cli.fail(f"--number must be 0 or more, got {arguments.number}")
    if arguments.backend == "dm_control" and arguments.renderer not in (None, "gl"):
        cli.fail(f"dm_control draws with OpenGL: give --renderer gl, or none, instead of {arguments.renderer}")
    if not all(map(math.isfinite, arguments.constant or ())):
        cli.fail(f"--constant must be finite numbers, got {' '.join(map(str, arguments.constant))}")
    return arguments


def measure(
    run_dir: Path,
    episodes: int,
    number: int = 0,
    *,
    task: str | None = None,
    checkpoint: int | Literal["best"] | None = None,
    distractors: Distractors | None = None,
    renderer: RendererName | None = None,
    backend: str = "own",
    random: bool = False,
    constant: Sequence[float] = (),
    video: Path | None = None,
    states: Path | None = None,
) -> dict[str, Any]:
    """Evaluates a run's policy, or another one in its place, on fresh environments.

    Args:
      run_dir: that ``train.py`` wrote.
      episodes: how many, each from its own start state.
      number: which set of start states.
      task: None: that of the run.
      checkpoint: None: the newest.
      distractors: None: those of the run.
      renderer: None: that of the run.
      backend: one of ``BACKENDS``: whose task it is.
      random: uniform actions in place of the policy's.
      constant: always this action in place of the policy's.
      video: mp4 to record one episode to.
      states: file for states and actions of the episodes, as ``expert_states`` has them.

    Returns:
      What was evaluated, and the mean and standard deviation of its returns.

    Raises:
      ConfigError, CheckpointError: as ``load_run``; or numbers that do not fit the task or the run's environments.
    """
    from covr_jax.envs import HostVecEnv
    from covr_jax.training.expert_states import Recorder
    from covr_jax.training.restore import load_run
    from covr_jax.training.video import record_episode

    in_suite = backend == "dm_control"
    config, programs, state = load_run(
        run_dir, checkpoint, distractors, task, None if in_suite else renderer, in_suite=in_suite
    )
    evaluator, num_envs = programs.evaluator, programs.evaluator.env.num_envs
    if episodes < 1 or (episodes > num_envs and not isinstance(evaluator.env, HostVecEnv)):
        raise ConfigError(f"--episodes must be between 1 and {num_envs}, the environments of the run's evaluation")
    policy, name = evaluator.eval_policy(state.learner), shown_method(config.method)
    if random or constant:
        policy, name = _other_policy(programs, number, constant)
    recorder = Recorder(policy, episodes) if states else None
    try:
        values = evaluator.evaluate(recorder or policy, episodes, number)
        if recorder and states:
            recorder.write(states, config.task)
        if video:
            record_episode(programs, policy, video, number)
    finally:
        programs.close()
    return {
        "task": config.task,
        "trained_on": read_config(run_dir).get("task"),
        "method": name,
        "seed": config.seed,
        "env_steps": int(state.progress.transitions) * programs.parts.env.action_repeat,
        "episodes": episodes,
        "return": float(values.mean()),
        "return_std": float(values.std()),
        "backend": backend,
        "renderer": "dm_control" if in_suite else programs.parts.image_source,
        "distractors": config.eval.distractors,
        **evaluator.episode_metrics(),
    }


def _other_policy(programs: Programs, number: int, constant: Sequence[float]) -> tuple[Policy, str]:
    """The policy that always takes one action, or uniform ones where that is empty; and its name."""
    if not constant:
        return programs.evaluator.random_policy(number), "random"
    if len(constant) != (action_dim := programs.parts.env.action_dim):
        raise ConfigError(f"--constant needs {action_dim} numbers for {programs.config.task}")
    action = np.tile(np.array(constant, np.float32), (programs.evaluator.env.num_envs, 1))
    return (lambda *_: action), f"constant {' '.join(f'{value:g}' for value in constant)}"


def line(row: dict[str, Any]) -> str:
    """Formats what ``measure`` returns."""
    where = "" if row["trained_on"] == row["task"] else f" (trained on {row['trained_on']})"
    measured = list(row)[list(row).index("distractors") + 1 :]  # by the environment itself
    return (
        f"{row['task']}{where} {row['method']} seed {row['seed']} at {row['env_steps']:,} env steps:"
        f" return {row['return']:.1f} ± {row['return_std']:.1f} over {row['episodes']} episodes"
        f" (renderer {row['renderer']})" + "".join(f", {name} {row[name]:.3g}" for name in measured)
    )


def main() -> int:
    """Evaluates, and prints one line or one JSON object."""
    arguments = parse()

    from covr_jax import runtime

    cli.import_quietly(warp=cli.uses_warp(read_config(arguments.run_dir), arguments.renderer))
    runtime.configure()
    cli.check_device()
    row = measure(
        arguments.run_dir,
        arguments.episodes,
        arguments.number,
        task=arguments.task,
        checkpoint=arguments.checkpoint,
        distractors=arguments.distractors,
        renderer=arguments.renderer,
        backend=arguments.backend,
        random=arguments.random,
        constant=arguments.constant or (),
        video=arguments.video,
        states=arguments.states,
    )
    print(to_json(row) if arguments.json else line(row))
    return 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    from covr_jax.io.checkpoint import CheckpointError

    cli.guarded(main, ConfigError, CheckpointError)
