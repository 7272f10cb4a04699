"""A task as ``gymnasium.vector.VectorEnv`` with next-step autoreset."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import jax
import numpy as np
from gymnasium.vector.utils import batch_space

from covr_jax import runtime
from covr_jax.envs.vec_env import make
from covr_jax.types import StepType


class GymVectorEnv(gymnasium.vector.VectorEnv):
    """E lanes. After a lane's last step the next ``step`` ignores its action and returns its new first observation.

    A time limit is a truncation; no task terminates. Arrays are on the host: use ``envs.make`` itself to stay on the
    device.
    """

    metadata: ClassVar = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, task: str, num_envs: int, *, pixels: bool = True, **options: Any):
        """``options`` as for ``envs.make``. Raises ValueError for an unknown task."""
        self._env = make(task, num_envs, pixels=pixels, **options)
        self.num_envs = num_envs
        self._compiled_reset, self._compiled_step = runtime.jit(self._env.reset), runtime.jit(self._env.step)
        self._state, self._seed, self._resets = None, 0, 0
        example = jax.eval_shape(self._env.reset, jax.random.key(0))[1].observation
        low, high = (0, 255) if pixels else (-np.inf, np.inf)
        self.single_observation_space = gymnasium.spaces.Box(low, high, example.shape[1:], np.dtype(example.dtype))
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (self._env.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(self, *, seed: int | None = None, options: dict | None = None) -> tuple[np.ndarray, dict]:
        """Observations of new episodes in all lanes; the same ``seed``, the same ones."""
        del options
        if seed is not None:
            self._seed, self._resets = seed, 0
        key = jax.random.fold_in(jax.random.key(self._seed), self._resets)
        self._resets += 1
        self._state, timestep = self._compiled_reset(key)
        return np.array(timestep.observation), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict]:
        """``actions`` f32[E,A] in [-1,1]. Raises RuntimeError before the first ``reset``."""
        if self._state is None:
            raise RuntimeError("call reset() before step()")
        self._state, timestep = self._compiled_step(self._state, np.asarray(actions, np.float32))
        last = np.asarray(timestep.step_type) == StepType.LAST
        terminated = last & (np.asarray(timestep.discount) == 0.0)
        observation, reward = np.array(timestep.observation), np.asarray(timestep.reward, np.float64)
        return observation, reward, terminated, last & ~terminated, {}
