"""Seconds from a command to its first update, with an empty compilation cache and with the one that this leaves.

``python experiments/benchmark/coldstart.py --tasks cartpole_swingup walker_walk --physics mujoco mjx``

``traced`` is a start with that cache which takes no kept programs (``COVR_JAX_KEPT=0``), as all did before there were
any. Each start is a process of its own with the demo's sizes and without a VLM: imports, environments, one cycle of
random actions, one cycle with updates.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from experiments.benchmark import measure

TASKS = (
    "cartpole_swingup",
    "reacher_easy",
    "pendulum_swingup",
    "ball_in_cup_catch",
    "cheetah_run",
    "walker_walk",
    "walker_run",
    "finger_spin",
    "hopper_hop",
)
STATES = ("empty", "full", "traced")


def started(began: float, options: list[str]) -> dict[str, float]:
    """Seconds of the stages of one start, in this process.

    Args:
      began: when the process was started, seconds since the epoch.
      options: of ``train.py``.
    """
    config = cli.parse_config(options, "coldstart.py", "")
    cli.import_quietly(warp=cli.uses_warp({}, config.renderer, config.env.physics))

    import jax

    from covr_jax import runtime
    from covr_jax.runtime.ahead import Ahead
    from covr_jax.runtime.kept import keep_programs
    from covr_jax.runtime.profiling import CompileLog
    from covr_jax.training.chunk import cycle
    from covr_jax.training.kept_programs import kept_for
    from covr_jax.training.programs import Programs
    from covr_jax.training.resolve import resolve

    runtime.configure()
    keep_programs()
    jax.devices()
    times, log = [began, time.time()], CompileLog()
    config = resolve(config)
    programs = Programs(config, Ahead(kept=kept_for(config)))
    state = jax.block_until_ready(programs.init())
    times.append(time.time())
    for learn in (False, True):
        result = cycle(programs.parts, programs.pieces, programs.stepper, state, learn=learn)
        state = jax.block_until_ready(result.state)
        times.append(time.time())
    programs.close()
    names = ("imports_s", "environments_s", "random_actions_s", "updates_s")
    stages = {name: end - start for name, start, end in zip(names, times[:-1], times[1:], strict=True)}
    compiled = {"compile_s": log.seconds, "programs": log.programs, "cached": log.cached}
    return {"first_update_s": times[-1] - began} | stages | compiled


def start(options: list[str], cache: str, *, kept: bool) -> dict[str, float]:
    """Runs ``started`` in a fresh process."""
    command = [sys.executable, __file__, "--child", str(time.time()), *options]
    environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache, "COVR_JAX_KEPT": str(int(kept))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        cli.fail(f"a start failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    """Prints a row per task, physics and state of the cache, and writes them."""
    from covr_jax.config import PhysicsEngine

    parser = argparse.ArgumentParser(prog="coldstart.py", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=TASKS, choices=TASKS, metavar="TASK")
    parser.add_argument("--physics", nargs="+", default=["mujoco", "mjx"], choices=get_args(PhysicsEngine))
    parser.add_argument("--output", type=Path, help="JSON file for the table")
    arguments = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for task in arguments.tasks:
        for physics in arguments.physics:
            options = ["--preset", "demo", "--method", "rad", "--task", task, "--env.physics", physics]
            with tempfile.TemporaryDirectory() as cache:
                for state in STATES:
                    found = start(options, cache, kept=state != "traced")
                    rows.append({"task": task, "physics": physics, "cache": state} | found)
                    print(measure.table(rows[-1:]), flush=True)
                    if arguments.output:  # a table of all tasks takes half an hour
                        measure.write(arguments.output, rows)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(started(float(sys.argv[2]), sys.argv[3:])))
    else:
        cli.guarded(main)
