"""Videos of policies: rendered by the project's own renderer, or the images that a host environment gave."""

from __future__ import annotations

from collections.abc import Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

import jax
import numpy as np

from covr_jax import runtime
from covr_jax.envs import EnvState, HostVecEnv, VecEnv
from covr_jax.io.mp4 import write_mp4
from covr_jax.render import Renderer
from covr_jax.runtime import hosts
from covr_jax.training.evaluation import Policy
from covr_jax.training.programs import Programs
from covr_jax.types import StepType, TimeStep

_SIZE = 240  # pixels


def record_episode(programs: Programs, policy: Policy, path: Path, number: int = 0) -> Path:
    """Writes the first episode of evaluation ``number`` under a policy as an mp4 in real time, without distractors."""
    frames, fps = episode_images(programs, policy, number)
    return write_mp4(frames, path, fps) if hosts.is_first() else path


def episode_images(programs: Programs, policy: Policy, number: int = 0) -> tuple[list[np.ndarray], float]:
    """The first episode of evaluation ``number``: u8[H,W,3] images, and how many of them make a second."""
    env = programs.evaluator.env
    if isinstance(env, HostVecEnv):
        return _observed_images(programs, policy, number), env.task.fps / env.action_repeat
    return _rendered_images(programs, env, policy, number), 1.0 / (env.task.control_timestep * env.action_repeat)


def _observed_images(programs: Programs, policy: Policy, number: int) -> list[np.ndarray]:
    """The images that the actor was given, enlarged by whole pixels."""
    newest = [np.asarray(timestep.observation[0, ..., -3:]) for _, timestep in _first_episode(programs, policy, number)]
    factor = 4 * max(_SIZE // (4 * newest[0].shape[0]), 1)  # the encoder wants multiples of 4
    return [frame.repeat(factor, 0).repeat(factor, 1) for frame in newest]


def _rendered_images(programs: Programs, env: VecEnv, policy: Policy, number: int) -> list[np.ndarray]:
    renderer = Renderer(env.mj_model, _SIZE, _SIZE)

    def render(state: EnvState) -> jax.Array:
        one = jax.tree.map(itemgetter(0), (state.qpos, state.qvel, state.ctrl, state.goal, state.touch))
        return renderer(env.physics.data(*one))

    render = runtime.jit(render)
    return [hosts.fetch(render(state)) for state, _ in _first_episode(programs, policy, number)]


def _first_episode(programs: Programs, policy: Policy, number: int) -> Iterator[tuple[Any, TimeStep]]:
    """Yields states and time steps of the first evaluation environment's first episode."""
    for state, timestep in programs.evaluator.rollout(policy, number):
        yield state, timestep
        if hosts.fetch(timestep.step_type)[0] == StepType.LAST:
            return
