"""Physics, pictures and pixel environment steps per second, beside dm_control's on the same machine in the same run.

``python experiments/benchmark/envs.py --tasks cartpole_swingup cheetah_run --num-envs 16 64 --gl osmesa``

Steps are control steps; an environment step with pixels is one agent step, counted as its action repeat. dm_control
runs in a process of its own, one world on one core, with the OpenGL that ``--gl`` names (``disable``: no pictures).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from experiments import cli  # noqa: E402
from experiments.benchmark import measure  # noqa: E402

SIZE = 84


def ours(task: str, lanes: int, samples: int) -> dict[str, Any]:
    """One task at one batch size: seconds to compile, and rates."""
    import jax
    import jax.numpy as jnp

    from covr_jax import envs
    from covr_jax.programs import CompiledEnv

    env = envs.make(task, lanes, image_size=SIZE, samples=samples)
    started = time.perf_counter()
    compiled = CompiledEnv(env)
    state, _ = compiled.reset(jax.random.key(0))
    action = jnp.zeros((lanes, env.action_dim))
    state, _ = jax.block_until_ready(compiled.step(state, action))
    compile_s = time.perf_counter() - started
    held = [state]

    def physics() -> None:
        held[0], _ = jax.block_until_ready(compiled._advance(held[0], action))

    def pictures() -> None:
        held[0], _ = jax.block_until_ready(compiled._observe(held[0], compiled._no_reward))

    def both() -> None:
        held[0], _ = jax.block_until_ready(compiled.step(held[0], action))

    steps = float(lanes * env.action_repeat)
    return {
        "task": task,
        "num_envs": lanes,
        "compile_s": compile_s,
        "physics_steps_per_s": measure.median_rate(physics, steps),
        "frames_per_s": measure.median_rate(pictures, float(lanes)),
        "pixel_env_steps_per_s": measure.median_rate(both, steps),
    }


def dm_control(task: str) -> dict[str, float | None]:
    """The same rates of the suite itself; run in a process whose MUJOCO_GL is set."""
    import numpy as np
    from dm_control import suite

    from covr_jax.envs import get_task

    domain, name = task.rsplit("_", 1)
    env = suite.load(domain, name, task_kwargs={"random": 0})
    repeat = get_task(task).action_repeat
    action = np.zeros(env.action_spec().shape)
    env.reset()

    def step() -> None:
        if env.step(action).last():
            env.reset()

    draw = partial(env.physics.render, SIZE, SIZE, camera_id=0)

    def both() -> None:
        for _ in range(repeat):
            step()
        draw()

    rates: dict[str, float | None] = {"physics": measure.median_rate(step, 1.0)}
    pictures = os.environ.get("MUJOCO_GL") not in ("disable", "disabled", "off")
    rates["frames"] = measure.median_rate(lambda: draw(), 1.0) if pictures else None
    rates["pixel_env_steps"] = measure.median_rate(both, float(repeat)) if pictures else None
    return rates


def reference(task: str, gl: str) -> dict[str, float | None]:
    command = [sys.executable, __file__, "--dm-control", task]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"MUJOCO_GL": gl}, cwd=ROOT
    )
    if done.returncode:
        cli.fail(f"dm_control with MUJOCO_GL={gl} failed: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    from covr_jax.envs import TASKS

    parser = argparse.ArgumentParser(prog="envs.py", description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=TASKS, metavar="TASK")
    parser.add_argument("--num-envs", nargs="+", type=int, default=[16])
    parser.add_argument("--samples", type=int, default=4, choices=(1, 2, 4), help="visibility rays per pixel")
    parser.add_argument("--gl", default="osmesa", choices=("osmesa", "egl", "disable"), help="OpenGL of dm_control")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--dm-control", metavar="TASK", help="measure the suite itself and print JSON")
    arguments = parser.parse_args()
    if arguments.dm_control:
        print(json.dumps(dm_control(arguments.dm_control)))
        return 0
    from covr_jax import runtime

    runtime.configure()
    rows = []
    for task in arguments.tasks:
        known = reference(task, arguments.gl)
        for lanes in arguments.num_envs:
            row = ours(task, lanes, arguments.samples)
            row |= {f"dm_control_{name}_per_s": rate for name, rate in known.items()}
            frames = known["frames"]
            row["frames_ratio"] = row["frames_per_s"] / frames if frames else None
            rows.append(row)
            print(measure.table(rows[-1:]), flush=True)
    if arguments.output:
        measure.write(arguments.output, rows, gl=arguments.gl, samples=arguments.samples, image_size=SIZE)
    print("\n" + measure.table(rows))
    return 0


if __name__ == "__main__":
    cli.import_quietly()
    cli.guarded(main)
