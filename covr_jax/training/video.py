"""Videos of policies: drawn by the project's own renderer, or of what a world on the host showed."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from mujoco import mjx

from covr_jax import runtime
from covr_jax.envs import HostVecEnv, VecEnv
from covr_jax.render import Renderer
from covr_jax.training.programs import Programs
from covr_jax.types import StepType, TimeStep

Policy = Callable[[TimeStep, int], Any]  # (time step, agent step) -> action f32[E,A]
_SIZE = 240  # pixels


def record_episode(programs: Programs, policy: Policy, path: Path, number: int = 0) -> Path:
    """The first episode of evaluation ``number`` under a policy, as an mp4 in real time; without distractors."""
    import imageio_ffmpeg

    env = programs.evaluator.env
    if isinstance(env, HostVecEnv):
        frames, fps = _seen(programs, policy, number), env.task.fps / env.action_repeat
    else:
        frames, fps = _drawn(programs, env, policy, number), 1.0 / (env.task.control_timestep * env.action_repeat)
    path.parent.mkdir(parents=True, exist_ok=True)
    size = frames[0].shape[1], frames[0].shape[0]
    with warnings.catch_warnings():
        # JAX warns of any fork; this child only runs the encoder.
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        writer = imageio_ffmpeg.write_frames(str(path), size, fps=fps, macro_block_size=4)
        writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path


def _seen(programs: Programs, policy: Policy, number: int) -> list[np.ndarray]:
    """The pictures that the actor was given, enlarged by whole pixels."""
    newest = [np.asarray(timestep.observation[0, ..., -3:]) for _, timestep in _episode(programs, policy, number)]
    factor = 4 * max(_SIZE // (4 * newest[0].shape[0]), 1)  # the encoder wants multiples of 4
    return [frame.repeat(factor, 0).repeat(factor, 1) for frame in newest]


def _drawn(programs: Programs, env: VecEnv, policy: Policy, number: int) -> list[np.ndarray]:
    renderer = Renderer(env.mj_model, _SIZE, _SIZE)
    model = mjx.put_model(env.mj_model)

    def draw(state: Any) -> jax.Array:
        data = mjx.kinematics(model, mjx.make_data(env.mj_model).replace(qpos=state.qpos[0]))
        data = mjx.tendon(model, mjx.camlight(model, mjx.com_pos(model, data)))
        return renderer(env.task.set_goal(data, state.goal[0]) if env.task.set_goal else data)

    draw = runtime.jit(draw)
    return [np.asarray(draw(state)) for state, _ in _episode(programs, policy, number)]


def _episode(programs: Programs, policy: Policy, number: int) -> Iterator[tuple[Any, TimeStep]]:
    """States and time steps of the first evaluation lane's first episode."""
    for state, timestep in programs.evaluator.rollout(policy, number):
        yield state, timestep
        if timestep.step_type[0] == StepType.LAST:
            return
