"""Videos of policies: drawn by the project's own renderer, or of what a world on the host showed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from mujoco import mjx

from covr_jax import runtime
from covr_jax.agents import LearnerState
from covr_jax.envs import HostVecEnv, VecEnv
from covr_jax.programs import Programs
from covr_jax.render import Renderer
from covr_jax.types import StepType, TimeStep

_SIZE = 240  # pixels


def record_episode(programs: Programs, learner: LearnerState, path: Path) -> Path:
    """One evaluation episode of the actor's mean action, as an mp4 in real time."""
    import imageio_ffmpeg

    env = programs.evaluator.env
    if isinstance(env, HostVecEnv):
        frames, fps = _seen(programs, learner), env.task.fps / env.action_repeat
    else:
        frames, fps = _drawn(programs, env, learner), 1.0 / (env.task.control_timestep * env.action_repeat)
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


def _seen(programs: Programs, learner: LearnerState) -> list[np.ndarray]:
    """The pictures that the actor was given, enlarged by whole pixels."""
    newest = [np.asarray(timestep.observation[0, ..., -3:]) for _, timestep in _episode(programs, learner)]
    factor = 4 * max(_SIZE // (4 * newest[0].shape[0]), 1)  # the encoder wants multiples of 4
    return [frame.repeat(factor, 0).repeat(factor, 1) for frame in newest]


def _drawn(programs: Programs, env: VecEnv, learner: LearnerState) -> list[np.ndarray]:
    renderer = Renderer(env.mj_model, _SIZE, _SIZE)
    model = mjx.put_model(env.mj_model)

    def draw(qpos: jax.Array) -> jax.Array:
        data = mjx.kinematics(model, mjx.make_data(env.mj_model).replace(qpos=qpos))
        return renderer(mjx.camlight(model, mjx.com_pos(model, data)))

    draw = runtime.jit(draw)
    return [np.asarray(draw(state.qpos[0])) for state, _ in _episode(programs, learner)]


def _episode(programs: Programs, learner: LearnerState) -> Iterator[tuple[Any, TimeStep]]:
    """States and time steps of the first evaluation lane's first episode."""
    for state, timestep in programs.evaluator.rollout(programs.evaluator.learned_policy(learner), number=0):
        yield state, timestep
        if timestep.step_type[0] == StepType.LAST:
            return
