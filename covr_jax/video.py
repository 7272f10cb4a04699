"""Videos of policies, drawn by the project's own renderer."""

from __future__ import annotations

import warnings
from pathlib import Path

import jax
import numpy as np
from mujoco import mjx

from covr_jax import runtime
from covr_jax.agents import LearnerState
from covr_jax.programs import Programs
from covr_jax.render import Renderer

_SIZE = 240  # pixels


def record_episode(programs: Programs, learner: LearnerState, path: Path) -> Path:
    """One evaluation episode of the actor's mean action, as an mp4 in real time."""
    import imageio_ffmpeg

    env = programs.eval_env
    renderer = Renderer(env.mj_model, _SIZE, _SIZE)
    model = mjx.put_model(env.mj_model)

    def draw(qpos: jax.Array) -> jax.Array:
        data = mjx.kinematics(model, mjx.make_data(env.mj_model).replace(qpos=qpos))
        return renderer(mjx.camlight(model, mjx.com_pos(model, data)))

    draw = runtime.jit(draw)
    policy = programs.learned_policy(learner)
    episode = programs.episode(policy, number=0)
    frames = [np.asarray(draw(state.qpos[0])) for state, _ in episode]
    path.parent.mkdir(parents=True, exist_ok=True)
    fps = 1.0 / (env.task.control_timestep * env.action_repeat)
    with warnings.catch_warnings():
        # JAX warns of any fork; this child only runs the encoder.
        warnings.filterwarnings("ignore", message="os.fork", category=RuntimeWarning)
        writer = imageio_ffmpeg.write_frames(str(path), (_SIZE, _SIZE), fps=fps, macro_block_size=8)
        writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame))
    writer.close()
    return path
