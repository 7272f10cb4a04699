"""Evaluate a trained policy: ``python experiments/evaluate.py runs/a --episodes 10``. No VLM is loaded."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import get_args

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from covr_jax.config import Distractors
from covr_jax.report import shown_method
from covr_jax.training.restore import load_run
from experiments import cli


def main() -> int:
    """Evaluates, and prints one line or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path, help="directory that train.py wrote")
    parser.add_argument("--episodes", type=int, default=10, help="episodes, each from its own start state")
    parser.add_argument("--number", type=int, default=0, help="which set of start states")
    parser.add_argument("--checkpoint", type=int, default=None, help="env steps of the checkpoint; default: the newest")
    names = get_args(Distractors)
    parser.add_argument("--distractors", default=None, choices=names, help="visual changes; default: those of the run")
    parser.add_argument("--video", type=Path, default=None, help="also record one episode to this mp4")
    others = parser.add_mutually_exclusive_group()
    others.add_argument("--random", action="store_true", help="uniform actions in place of the policy's")
    others.add_argument("--constant", type=float, nargs="+", default=None, metavar="A", help="always this action")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a line")
    arguments = parser.parse_args()

    from covr_jax import runtime

    cli.import_quietly()
    runtime.configure()

    config, programs, state = load_run(arguments.run_dir, arguments.checkpoint, arguments.distractors)
    evaluator = programs.evaluator
    num_envs = evaluator.env.num_envs
    if arguments.episodes < 1 or (arguments.episodes > num_envs and not programs.parts.hosted):
        cli.fail(f"--episodes must be between 1 and {num_envs}, the environments of the run's evaluation")
    if arguments.constant and len(arguments.constant) != programs.parts.env.action_dim:
        cli.fail(f"--constant needs {programs.parts.env.action_dim} numbers for {config.task}")
    policy = evaluator.eval_policy(state.learner)
    name = shown_method(config.method)
    if arguments.random:
        policy, name = evaluator.random_policy(arguments.number), "random"
    elif arguments.constant:
        action = np.tile(np.array(arguments.constant, np.float32), (num_envs, 1))
        policy, name = (lambda *_: action), f"constant {' '.join(f'{number:g}' for number in arguments.constant)}"
    values = evaluator.evaluate(policy, arguments.episodes, arguments.number)
    episode_metrics = evaluator.episode_metrics()
    if arguments.video:
        from covr_jax.training.video import record_episode

        record_episode(programs, policy, arguments.video, arguments.number)
    programs.close()
    row = {
        "task": config.task,
        "method": name,
        "seed": config.seed,
        "env_steps": int(state.progress.transitions) * programs.parts.env.action_repeat,
        "episodes": arguments.episodes,
        "return": float(values.mean()),
        "return_std": float(values.std()),
        "renderer": programs.parts.image_source,
        "distractors": config.eval.distractors,
        **episode_metrics,
    }
    if arguments.json:
        print(json.dumps(row))
    else:
        print(
            f"{row['task']} {row['method']} seed {row['seed']} at {row['env_steps']:,} env steps:"
            f" return {row['return']:.1f} ± {row['return_std']:.1f} over {row['episodes']} episodes"
            f" (renderer {row['renderer']})"
            + "".join(f", {name} {value:.3g}" for name, value in episode_metrics.items())
        )
    return 0


if __name__ == "__main__":
    from covr_jax.config import ConfigError
    from covr_jax.io.checkpoint import CheckpointError

    cli.guarded(main, ConfigError, CheckpointError)
