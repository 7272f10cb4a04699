"""A trained policy beside policies that have learned nothing, on the same episodes.

``python experiments/benchmark/policies.py runs/a --constant "0 0.3" "0 1" --output a.json`` measures the policy of a
run's newest checkpoint, uniform actions and each constant action: returns, and what the world itself measures.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure


def constant(text: str, lanes: int, action_dim: int) -> Callable[..., np.ndarray]:
    """The policy that always answers the numbers in ``text``, f32[lanes,A]."""
    numbers = [float(number) for number in text.split()]
    if len(numbers) != action_dim:
        cli.fail(f"--constant {text!r} needs {action_dim} numbers")
    action = np.tile(np.array(numbers, np.float32), (lanes, 1))
    return lambda *_: action


def measured(run_dir: Path, constants: list[str], episodes: int, number: int) -> tuple[list[dict[str, Any]], Any, int]:
    """One row per policy, the trained one first; the run's configuration; env steps of the checkpoint."""
    from covr_jax.training.restore import load_run

    config, programs, state = load_run(run_dir)
    evaluator, lanes = programs.evaluator, programs.evaluator.env.num_envs
    policies = {config.method: evaluator.eval_policy(state.learner), "random": evaluator.random_policy(number)}
    policies |= {f"constant {text}": constant(text, lanes, programs.parts.env.action_dim) for text in constants}
    rows = []
    try:
        for name, policy in policies.items():
            values = evaluator.evaluate(policy, episodes, number)
            row = {"policy": name, "return": float(values.mean()), "return_std": float(values.std())}
            rows.append(row | {"least": float(values.min())} | evaluator.episode_metrics())
            print(json.dumps(rows[-1]), flush=True)
    finally:
        programs.close()
    return rows, config, int(state.progress.transitions) * programs.parts.env.action_repeat


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="directory that train.py wrote")
    parser.add_argument("--constant", nargs="+", default=[], metavar="ACTION", help="its numbers in quotes, each")
    parser.add_argument("--episodes", type=int, default=10)
    parser.add_argument("--number", type=int, default=0, help="which set of start states")
    parser.add_argument("--output", type=Path, default=None, help="write the rows to this JSON file")
    arguments = parser.parse_args()

    from covr_jax import runtime

    cli.import_quietly()
    runtime.configure()
    rows, config, env_steps = measured(arguments.run_dir, arguments.constant, arguments.episodes, arguments.number)
    if arguments.output:
        about = {"task": config.task, "seed": config.seed, "env_steps": env_steps}
        if config.task.startswith("carla_"):
            about["simulator"] = config.carla.endpoint
        measure.write(arguments.output, rows, episodes=arguments.episodes, **about)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    from covr_jax.config import ConfigError
    from covr_jax.io.checkpoint import CheckpointError

    cli.guarded(main, ConfigError, CheckpointError)
