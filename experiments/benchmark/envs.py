"""Physics, pictures and pixel environment steps per second, beside others' on the same machine in the same run.

``python experiments/benchmark/envs.py --tasks cartpole_swingup cheetah_run --num-envs 16 64 --samples 4 2 --gl osmesa``

Steps are control steps; an environment step with pixels is one agent step, counted as its action repeat. Beside ours:

* ``dm_control``: the suite in a process of its own, one world on one core, with the OpenGL of ``--gl`` (``disable``:
  no pictures).
* ``c_threads``: C MuJoCo on all cores (mujoco.rollout), as many worlds as ours and with the XML's own solver settings.
* ``warp_1``, ``warp_4``: mjx.render with one and with four samples per pixel, as many worlds as ours.

``--alone`` leaves all of them out, and the compile times. ``samples`` is ours: 4 is exact, 2 fast. ``compile_cold_s``
and ``compile_cached_s`` are the seconds from a task's name to its first step in a fresh process, with an empty
compilation cache and with the one that it left.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from covr_jax.commands import cli
from covr_jax.config import PhysicsEngine
from experiments.benchmark import measure, rivals

SIZE = 84


def built(task: str, lanes: int, samples: int, physics: str) -> tuple[Any, Any, Any, Any]:
    """(environment, its compiled pieces, a state, an action): compiled and stepped once."""
    import jax
    import jax.numpy as jnp

    from covr_jax import envs
    from covr_jax.envs.stepper import JitStepper

    env = envs.make(task, lanes, image_size=SIZE, samples=samples, physics=physics)
    compiled = JitStepper(env)
    action = jnp.zeros((lanes, env.action_dim))
    state, _ = compiled.reset(jax.random.key(0))
    state, _ = jax.block_until_ready(compiled.step(state, action))
    return env, compiled, state, action


def ours(compiled: Any, state: Any, action: Any, repeat: int) -> dict[str, float]:
    """Rates at one batch size; ``state`` is gone afterwards."""
    import jax

    held, lanes = [state], len(action)

    def physics() -> None:
        held[0], _ = jax.block_until_ready(compiled._advance(held[0], action))

    def pictures() -> None:
        held[0], _ = jax.block_until_ready(compiled.observe(held[0], compiled._no_reward))

    def both() -> None:
        # A compiled environment does not read the time step before.
        held[0], _ = jax.block_until_ready(compiled.step(held[0], action))

    steps = float(lanes * repeat)
    return {
        "physics_steps_per_s": measure.median_rate(physics, steps),
        "frames_per_s": measure.median_rate(pictures, float(lanes)),
        "pixel_env_steps_per_s": measure.median_rate(both, steps),
    }


def compile_seconds(task: str, lanes: int, samples: int, physics: str) -> dict[str, float]:
    """Cold and cached, each in a process of its own."""
    with tempfile.TemporaryDirectory() as cache:
        cold, cached = (
            rivals.child(
                __file__, "--compile", task, str(lanes), str(samples), physics, JAX_COMPILATION_CACHE_DIR=cache
            )
            for _ in range(2)
        )
    return {"compile_cold_s": cold, "compile_cached_s": cached}


def rows_of(
    task: str, lanes: int, all_samples: list[int], physics: str, suite: dict[str, Any] | None
) -> list[dict[str, Any]]:
    """One row per number of samples; compile times and the others are measured once, with the first.

    Args:
      task: name of the task.
      lanes: number of environments.
      all_samples: samples per pixel.
      physics: engine of ours.
      suite: dm_control's rates; None: neither others nor compile times.
    """
    rows, others, once = [], {}, {}
    for samples in all_samples:
        env, compiled, state, action = built(task, lanes, samples, physics)
        if not others and suite is not None:
            once = compile_seconds(task, lanes, samples, physics)
            others = {f"dm_control_{name}_per_s": rate for name, rate in suite.items()}
            others["c_threads_physics_steps_per_s"] = rivals.c_threads(env, state)
            warp = rivals.warp_frames(task, state, SIZE)
            others |= {f"{name}_frames_per_s": rate for name, rate in warp.items()}
        row = {"task": task, "num_envs": lanes, "samples": samples, "physics": physics}
        row |= once | ours(compiled, state, action, env.action_repeat) | others
        once = dict.fromkeys(once)
        if suite is not None:
            row["frames_ratio"] = row["frames_per_s"] / suite["frames"] if suite["frames"] else None
        rows.append(row)
        print(measure.table([row]), flush=True)
    return rows


def child_of(arguments: argparse.Namespace) -> Any:
    """What a process that this script started for one measurement has to print."""
    if arguments.dm_control:
        return rivals.dm_control(arguments.dm_control, SIZE)
    from covr_jax import runtime
    from covr_jax.training import programs

    del programs  # imported, so that no import is part of the time
    task, lanes, samples, physics = arguments.compile
    runtime.configure()
    started = time.perf_counter()
    built(task, int(lanes), int(samples), physics)
    return time.perf_counter() - started


def main() -> int:
    from covr_jax.envs import TASKS

    parser = argparse.ArgumentParser(
        prog="envs.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[16])
    parser.add_argument("--samples", nargs="+", type=int, default=[4], choices=(1, 2, 4), help="rays per pixel, ours")
    parser.add_argument("--physics", default="auto", choices=get_args(PhysicsEngine), help="ours")
    parser.add_argument("--alone", action="store_true", help="neither others nor compile times")
    parser.add_argument("--gl", default="osmesa", choices=("osmesa", "egl", "disable"), help="OpenGL of dm_control")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--dm-control", metavar="TASK", help=argparse.SUPPRESS)
    parser.add_argument(
        "--compile", nargs=4, metavar=("TASK", "NUM_ENVS", "SAMPLES", "PHYSICS"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    if arguments.dm_control or arguments.compile:
        print(json.dumps(child_of(arguments)))
        return 0
    from covr_jax import runtime

    runtime.configure()
    rows = []
    for task in arguments.tasks:
        suite = None if arguments.alone else rivals.child(__file__, "--dm-control", task, MUJOCO_GL=arguments.gl)
        for lanes in arguments.num_envs:
            rows += rows_of(task, lanes, arguments.samples, arguments.physics, suite)
        if arguments.output:  # a task takes three minutes
            measure.write(arguments.output, rows, gl=arguments.gl, image_size=SIZE)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main)
