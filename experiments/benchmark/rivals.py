"""What others do in the same run on the same machine: dm_control, C MuJoCo's threads, mjx.render on Warp."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from covr_jax.commands import cli
from experiments.benchmark import measure

ROOT = Path(__file__).resolve().parents[2]
WARP_SAMPLES = (1, 4)  # all that it takes


def child(script: str, *arguments: str, **environment: str) -> Any:
    """What ``script`` prints as JSON in its last line, from a process of its own."""
    command = [sys.executable, script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | environment, cwd=ROOT)
    if done.returncode:
        cli.fail(f"{' '.join(arguments)} with {environment} failed: {(done.stderr.strip() or '?').splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def dm_control(task: str, size: int) -> dict[str, float | None]:
    """Rates of the suite itself, one world on one core; run in a process whose MUJOCO_GL is set."""
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

    draw = partial(env.physics.render, size, size, camera_id=0)

    def both() -> None:
        for _ in range(repeat):
            step()
        draw()

    rates: dict[str, float | None] = {"physics_steps": measure.median_rate(step, 1.0)}
    pictures = os.environ.get("MUJOCO_GL") not in ("disable", "disabled", "off")
    rates["frames"] = measure.median_rate(draw, 1.0) if pictures else None
    rates["pixel_env_steps"] = measure.median_rate(both, float(repeat)) if pictures else None
    return rates


def c_threads(env: Any, state: Any) -> float:
    """Control steps per second of C MuJoCo, one thread per core, from the worlds of ``state`` and with its actions."""
    import mujoco
    import numpy as np
    from mujoco.rollout import Rollout

    model, kind = env.mj_model, mujoco.mjtState.mjSTATE_FULLPHYSICS
    threads = len(os.sched_getaffinity(0))
    workers = [mujoco.MjData(model) for _ in range(threads)]
    start = np.empty((env.num_envs, mujoco.mj_stateSize(model, kind)))
    for lane in range(env.num_envs):
        workers[0].qpos[:], workers[0].qvel[:] = state.qpos[lane], state.qvel[lane]
        mujoco.mj_getState(model, workers[0], start[lane], kind)
    steps = env.action_repeat * round(env.task.control_timestep / model.opt.timestep)
    control = np.repeat(np.asarray(state.ctrl, np.float64)[:, None], steps, axis=1)
    with Rollout(nthread=threads) as pool:

        def work() -> None:
            nonlocal start
            start = np.asarray(pool.rollout(model, workers, start, control)[0])[:, -1]

        work()
        return measure.median_rate(work, float(env.num_envs * env.action_repeat))


def warp_frames(task: str, state: Any, size: int) -> dict[str, float | None]:
    """Frames per second of the renderer ``warp`` on the worlds of ``state``, per number of samples."""
    import jax
    import jax.numpy as jnp

    from covr_jax import envs, runtime
    from covr_jax.render import RendererError

    lanes = len(state.step_count)
    no_reward = jnp.zeros((lanes,))

    def frames(samples: int) -> float:
        env = envs.make(task, lanes, image_size=size, samples=samples, renderer="warp")
        observe = runtime.jit(env.observe)

        def work() -> None:
            jax.block_until_ready(observe(state, no_reward))

        work()
        return measure.median_rate(work, float(lanes))

    try:
        return {f"warp_{samples}": frames(samples) for samples in WARP_SAMPLES}
    except RendererError as error:
        print(f"no frames of Warp: {error}", flush=True)
        return {f"warp_{samples}": None for samples in WARP_SAMPLES}
