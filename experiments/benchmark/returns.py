"""What uniformly random actions earn in each task and in dm_control's own: the same distribution of returns?

``python experiments/benchmark/returns.py --output experiments/results/envs/returns.json``

Starts and actions are drawn independently on both sides, a new action every control step; returns are sums over the
first ten control steps and over the whole episode of a thousand. Two-sample Kolmogorov-Smirnov tests; a pair counts as
different below LEVEL divided by the number of tests (Bonferroni), so that equal tasks raise one false alarm in a
hundred runs of the whole table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure

LEVEL = 0.01
SHORT, FULL = 10, 1000  # control steps


class Episodes(NamedTuple):
    """The first T control steps of N episodes."""

    rewards: np.ndarray  # f64[T,N]
    observations: np.ndarray  # f64[N,...], state observations after the last of the steps


def ours(env: Any, reset: Callable, step: Callable, seed: int, steps: int) -> Episodes:
    """One episode in every lane of a ``VecEnv`` with action_repeat 1; its compiled ``reset`` and ``step``."""
    import jax

    generator, rewards = np.random.default_rng([seed, 0]), []
    state, timestep = reset(jax.random.key(seed))
    for _ in range(steps):
        action = generator.uniform(-1.0, 1.0, (env.num_envs, env.action_dim)).astype(np.float32)
        state, timestep = step(state, action)
        rewards.append(np.asarray(timestep.reward, np.float64))
    return Episodes(np.stack(rewards), np.asarray(timestep.observation, np.float64))


def suites(task: str, episodes: int, seed: int, steps: int) -> Episodes:
    """The same from dm_control, one episode after the other."""
    from dm_control import suite

    env = suite.load(*task.rsplit("_", 1), task_kwargs={"random": seed})
    generator, shape = np.random.default_rng([seed, 1]), env.action_spec().shape
    rewards, observations = np.zeros((steps, episodes)), []
    for episode in range(episodes):
        timestep = env.reset()
        for step in range(steps):
            timestep = env.step(generator.uniform(-1.0, 1.0, shape))
            rewards[step, episode] = timestep.reward
        observations.append(np.concatenate([np.ravel(part) for part in timestep.observation.values()]))
    return Episodes(rewards, np.stack(observations))


def compare(task: str, episodes: int, known: int, level: float) -> dict[str, Any]:
    """Statistics of one task: ``episodes`` of ours, ``known`` of dm_control's."""
    import jax
    from scipy.stats import ks_2samp

    from covr_jax import envs

    started = time.perf_counter()
    env = envs.make(task, episodes, pixels=False, action_repeat=1)
    mine = ours(env, jax.jit(env.reset), jax.jit(env.step), 0, FULL).rewards
    theirs = suites(task, known, 0, FULL).rewards
    row: dict[str, Any] = {"task": task, "episodes": episodes, "dm_control_episodes": known}
    for name, steps in (("10", SHORT), ("full", FULL)):
        one, other = mine[:steps].sum(0), theirs[:steps].sum(0)
        test: Any = ks_2samp(one, other, method="asymp")
        row |= {
            f"mean_{name}": float(one.mean()),
            f"std_{name}": float(one.std()),
            f"dm_control_mean_{name}": float(other.mean()),
            f"dm_control_std_{name}": float(other.std()),
            f"ks_{name}": float(test.statistic),
            f"p_{name}": float(test.pvalue),
        }
    different = min(row["p_10"], row["p_full"]) < level
    return row | {"different": different, "seconds": time.perf_counter() - started}


def main() -> int:
    from covr_jax.envs import TASKS

    parser = argparse.ArgumentParser(prog="returns.py", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--episodes", type=int, default=200, help="of ours, all at once")
    parser.add_argument("--dm-control-episodes", type=int, default=400, help="one after the other")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    from covr_jax import runtime

    runtime.configure()
    level, rows = LEVEL / (2 * len(arguments.tasks)), []
    for task in arguments.tasks:
        rows.append(compare(task, arguments.episodes, arguments.dm_control_episodes, level))
        print(measure.table(rows[-1:]), flush=True)
    if arguments.output:
        measure.write(arguments.output, rows, level=level, short_steps=SHORT, full_steps=FULL)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main)
