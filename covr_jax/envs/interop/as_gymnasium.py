"""A task as ``gymnasium.vector.VectorEnv`` with next-step autoreset, and as ``gymnasium.Env``.

Letters: E envs, A action, N state.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import gymnasium
import jax
import numpy as np
from gymnasium.vector.utils import batch_space
from jaxtyping import Bool, Float, Shaped

from covr_jax import runtime
from covr_jax.checks import finite_actions
from covr_jax.envs.registry import get_task
from covr_jax.envs.vec_env import VecEnv
from covr_jax.runtime.rng import check_seed
from covr_jax.types import StepType


class GymVectorEnv(gymnasium.vector.VectorEnv):
    """E envs of a task. After an env's last step, the next ``step`` ignores its action and starts its next episode.

    A time limit is a truncation; no task terminates. Arrays are on the host; use ``envs.make`` to keep them on the
    device.

    Args:
      task: one of ``envs.TASKS``.
      num_envs: E.
      pixels: whether observations are images u8[E,H,W,3*frame_stack]; False: dm_control's state observation f32[E,N].
      **options: further options of ``VecEnv``.

    Attributes:
      steps_per_second: agent steps per second of simulated time.

    Raises:
      ValueError: on construction, for an unknown task.
    """

    metadata: ClassVar = {"autoreset_mode": gymnasium.vector.AutoresetMode.NEXT_STEP}

    def __init__(self, task: str, num_envs: int, *, pixels: bool = True, **options: Any):
        self._env = VecEnv(get_task(task), num_envs, pixels=pixels, **options)
        self.num_envs, self._action_shape = num_envs, (num_envs, self._env.action_dim)
        self._compiled_reset, self._compiled_step = runtime.jit(self._env.reset), runtime.jit(self._env.step)
        self._state, self._seed, self._resets = None, 0, 0
        self.steps_per_second = 1.0 / (self._env.task.control_timestep * self._env.action_repeat)
        example = jax.eval_shape(self._env.reset, jax.random.key(0))[1].observation
        low, high = (0, 255) if pixels else (-np.inf, np.inf)
        self.single_observation_space = gymnasium.spaces.Box(low, high, example.shape[1:], np.dtype(example.dtype))
        self.single_action_space = gymnasium.spaces.Box(-1.0, 1.0, (self._env.action_dim,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[Shaped[np.ndarray, " E *observation"], dict]:
        """Starts an episode in every env.

        Args:
          seed: decides these and all later episodes; None: the episodes after the last ones.
          options: ignored.

        Returns:
          The first observations, and an empty dict.

        Raises:
          RuntimeError: in a process that was forked (``runtime.refuse_forked``).
          ValueError: a seed out of range, or that is no whole number.
        """
        del options
        runtime.refuse_forked()
        if seed is not None:
            self._seed, self._resets = check_seed(seed), 0
        key = jax.random.fold_in(jax.random.key(self._seed), self._resets)
        self._resets += 1
        self._state, timestep = self._compiled_reset(key)
        return np.array(timestep.observation), {}

    def step(
        self, actions: Float[np.ndarray, "E A"]
    ) -> tuple[
        Shaped[np.ndarray, " E *observation"],
        Float[np.ndarray, " E"],
        Bool[np.ndarray, " E"],
        Bool[np.ndarray, " E"],
        dict,
    ]:
        """Applies actions in [-1, 1] for one agent step.

        Returns:
          Observations, f64 rewards, which episodes terminated, which were truncated, and an empty dict.

        Raises:
          RuntimeError: before the first ``reset``, or in a process that was forked (``runtime.refuse_forked``).
          ValueError: actions of another shape, or that are no finite numbers.
        """
        runtime.refuse_forked()
        if self._state is None:
            raise RuntimeError("call reset() before step()")
        self._state, timestep = self._compiled_step(self._state, finite_actions(actions, self._action_shape))
        last = np.asarray(timestep.step_type) == StepType.LAST
        terminated = last & (np.asarray(timestep.discount) == 0.0)
        observation, reward = np.array(timestep.observation), np.asarray(timestep.reward, np.float64)
        return observation, reward, terminated, last & ~terminated, {}


class GymEnv(gymnasium.Env):
    """One env of a task.

    Args:
      task: one of ``envs.TASKS``.
      pixels: as ``GymVectorEnv``.
      render_mode: ``rgb_array``: ``render`` returns the observation's newest image; None: it returns None.
      **options: further options of ``VecEnv``.

    Raises:
      ValueError: on construction, for an unknown task, or images to render where there are none.
    """

    metadata: ClassVar = {"render_modes": ["rgb_array"]}

    def __init__(
        self, task: str, *, pixels: bool = True, render_mode: Literal["rgb_array"] | None = None, **options: Any
    ):
        if render_mode is not None and not pixels:
            raise ValueError("render_mode shows the observation's newest image: leave pixels=False or render_mode out")
        self._vector = GymVectorEnv(task, 1, pixels=pixels, **options)
        self.observation_space = self._vector.single_observation_space
        self.action_space = self._vector.single_action_space
        self.render_mode, self._observation, self._over = render_mode, None, True
        self.metadata = self.metadata | {"render_fps": self._vector.steps_per_second}

    def reset(
        self, *, seed: int | None = None, options: dict | None = None
    ) -> tuple[Shaped[np.ndarray, " *observation"], dict]:
        """Starts an episode, see ``GymVectorEnv.reset``."""
        super().reset(seed=seed)
        observation, info = self._vector.reset(seed=seed, options=options)
        self._observation, self._over = observation[0], False
        return observation[0], info

    def step(
        self, action: Float[np.ndarray, " A"]
    ) -> tuple[Shaped[np.ndarray, " *observation"], float, bool, bool, dict]:
        """Applies an action in [-1, 1] for one agent step.

        Raises:
          RuntimeError: before the first ``reset``, or after the end of an episode.
          ValueError: an action of another shape, or one that is not finite.
        """
        if self._over:
            raise RuntimeError("call reset() before step(): no episode is going on")
        observation, reward, terminated, truncated, info = self._vector.step(np.asarray(action)[None])
        self._observation, self._over = observation[0], bool(terminated[0] or truncated[0])
        return observation[0], float(reward[0]), bool(terminated[0]), bool(truncated[0]), info

    def render(self) -> Shaped[np.ndarray, "H W 3"] | None:
        """Returns the newest image where ``render_mode`` is ``rgb_array``."""
        return None if self.render_mode is None or self._observation is None else self._observation[..., -3:]
