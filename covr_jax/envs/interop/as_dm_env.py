"""A task as ``dm_env.Environment``: one env, with its arrays on the host. Letters: A action, N numbers of a state."""

from __future__ import annotations

from typing import Any

import dm_env
import jax
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike

from covr_jax import runtime
from covr_jax.checks import finite_actions
from covr_jax.envs.registry import get_task
from covr_jax.envs.vec_env import VecEnv
from covr_jax.runtime.rng import check_seed
from covr_jax.types import StepType, TimeStep


class DmEnv(dm_env.Environment):
    """A task, compiled on the first ``reset`` and ``step``. The discount stays 1: a time limit is no termination.

    Args:
      task: one of ``envs.TASKS``.
      seed: decides all episodes.
      pixels: whether observations are images u8[H,W,3*frame_stack]; False: dm_control's state observation f32[N].
      **options: further options of ``VecEnv``.

    Raises:
      ValueError: on construction, for an unknown task or a seed out of range.
    """

    def __init__(self, task: str, *, seed: int = 0, pixels: bool = True, **options: Any):
        self._env = VecEnv(get_task(task), 1, pixels=pixels, **options)
        self._compiled_reset, self._compiled_step = runtime.jit(self._env.reset), runtime.jit(self._env.step)
        self._key, self._episodes, self._state, self._ended = jax.random.key(check_seed(seed)), 0, None, True
        example = jax.eval_shape(self._env.reset, self._key)[1].observation
        shape, dtype = example.shape[1:], np.dtype(example.dtype)
        self._observation_spec = (
            specs.BoundedArray(shape, dtype, 0, 255, "pixels") if pixels else specs.Array(shape, dtype, "state")
        )

    def reset(self) -> dm_env.TimeStep:
        """Starts an episode and returns its FIRST.

        Raises:
          RuntimeError: in a process that was forked (``runtime.refuse_forked``).
        """
        runtime.refuse_forked()
        key = jax.random.fold_in(self._key, self._episodes)
        self._episodes += 1
        self._state, timestep = self._compiled_reset(key)
        self._ended = False
        return dm_env.restart(self._observation(timestep))

    def step(self, action: ArrayLike) -> dm_env.TimeStep:
        """Applies an action f32[A] in [-1, 1]; starts an episode instead after LAST and before ``reset``.

        Raises:
          RuntimeError: in a process that was forked (``runtime.refuse_forked``).
          ValueError: an action of another shape, or that is no finite number.
        """
        runtime.refuse_forked()
        if self._ended:
            return self.reset()
        self._state, timestep = self._compiled_step(self._state, finite_actions(action, (self._env.action_dim,))[None])
        reward, observation = float(timestep.reward[0]), self._observation(timestep)
        if int(timestep.step_type[0]) == StepType.LAST:
            self._ended = True
            return dm_env.truncation(reward, observation)
        return dm_env.transition(reward, observation)

    def observation_spec(self) -> specs.Array:
        """Returns the spec of images u8[H,W,3*frame_stack] or of states f32[N]."""
        return self._observation_spec

    def action_spec(self) -> specs.BoundedArray:
        """Returns the spec of actions f32[A] in [-1, 1]."""
        return specs.BoundedArray((self._env.action_dim,), np.float32, -1.0, 1.0, "action")

    @staticmethod
    def _observation(timestep: TimeStep) -> np.ndarray:
        return np.array(timestep.observation[0])
