"""A task as ``dm_env.Environment``: one world on the host."""

from __future__ import annotations

from typing import Any

import dm_env
import jax
import numpy as np
from dm_env import specs

from covr_jax import runtime
from covr_jax.envs.vec_env import make
from covr_jax.types import StepType, TimeStep


class DmEnv(dm_env.Environment):
    """Compiled on the first ``reset`` and ``step``. The discount stays 1: a time limit is no termination."""

    def __init__(self, task: str, *, seed: int = 0, pixels: bool = True, **options: Any):
        """``options`` as for ``envs.make``. Raises ValueError for an unknown task."""
        self._env = make(task, 1, pixels=pixels, **options)
        self._compiled_reset, self._compiled_step = runtime.jit(self._env.reset), runtime.jit(self._env.step)
        self._key, self._episodes, self._state, self._over = jax.random.key(seed), 0, None, True
        example = jax.eval_shape(self._env.reset, self._key)[1].observation
        shape, dtype = example.shape[1:], np.dtype(example.dtype)
        self._observation_spec = (
            specs.BoundedArray(shape, dtype, 0, 255, "pixels") if pixels else specs.Array(shape, dtype, "state")
        )

    def reset(self) -> dm_env.TimeStep:
        """A new episode's FIRST."""
        key = jax.random.fold_in(self._key, self._episodes)
        self._episodes += 1
        self._state, timestep = self._compiled_reset(key)
        self._over = False
        return dm_env.restart(self._host(timestep))

    def step(self, action: np.ndarray) -> dm_env.TimeStep:
        """``action`` f32[A] in [-1,1]; after LAST, and before the first ``reset``, it starts an episode."""
        if self._over:
            return self.reset()
        self._state, timestep = self._compiled_step(self._state, np.asarray(action, np.float32)[None])
        reward, observation = float(timestep.reward[0]), self._host(timestep)
        if int(timestep.step_type[0]) == StepType.LAST:
            self._over = True
            return dm_env.truncation(reward, observation)
        return dm_env.transition(reward, observation)

    def observation_spec(self) -> specs.Array:
        """u8[H,W,3*stack] pixels or f32[N] state."""
        return self._observation_spec

    def action_spec(self) -> specs.BoundedArray:
        """f32[A] in [-1, 1]."""
        return specs.BoundedArray((self._env.action_dim,), np.float32, -1.0, 1.0, "action")

    @staticmethod
    def _host(timestep: TimeStep) -> np.ndarray:
        return np.array(timestep.observation[0])
