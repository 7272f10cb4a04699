"""Agent steps per second of environments on the host, by how many of them step side by side.

``python experiments/benchmark/host_env.py --tasks car_racing carla_highway --num-envs 1 2 4``

An agent step is one call of ``HostVecEnv.step`` in one lane: ``action_repeat`` simulation steps and one picture that
reaches this process. The CARLA tasks run on loopback servers: nothing here is about Unreal.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure

# Episodes last: half gas, and in CARLA a little, straight on.
ACTIONS = {"car_racing": (0.0, 0.0, -1.0)}
GENTLE = (0.0, 0.1)


def rate(task: str, lanes: int, size: int, seconds: float) -> dict[str, Any]:
    """One row: agent steps per second over all lanes, and what opening them took."""
    from covr_jax import envs

    env = envs.make(task, lanes, image_size=size)
    action = np.tile(np.array(ACTIONS.get(task, GENTLE), np.float32), (lanes, 1))
    started = time.perf_counter()
    state, _ = env.reset(np.zeros(2, np.uint32))
    opened = time.perf_counter() - started

    def step() -> None:
        nonlocal state
        state, _ = env.step(state, action)

    try:
        step()
        per_second = measure.median_rate(step, lanes, seconds=seconds)
    finally:
        env.close()
    return {
        "task": task,
        "num_envs": lanes,
        "agent_steps_per_s": per_second,
        "env_steps_per_s": per_second * env.action_repeat,
        "open_s": opened,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cli.import_quietly()
    from covr_jax.envs import HOST_TASKS

    parser.add_argument("--tasks", nargs="+", default=list(HOST_TASKS), choices=HOST_TASKS, metavar="TASK")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[1, 2, 4])
    parser.add_argument("--image-size", type=int, default=84)
    parser.add_argument("--seconds", type=float, default=2.0, help="of each of five blocks; the median counts")
    parser.add_argument("--output", type=Path, default=None, help="write the rows to this JSON file")
    arguments = parser.parse_args()
    rows = [
        rate(task, lanes, arguments.image_size, arguments.seconds)
        for task in arguments.tasks
        for lanes in arguments.num_envs
    ]
    print(measure.table(rows))
    if arguments.output:
        measure.write(arguments.output, rows, image_size=arguments.image_size, simulator={"carla": "loopback"})
    return 0


if __name__ == "__main__":
    from covr_jax.types import EnvironmentLost

    cli.guarded(main, EnvironmentLost)
