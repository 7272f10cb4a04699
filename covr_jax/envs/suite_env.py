"""dm_control's own tasks with its own pictures, on which a policy that was trained on ours can be tried."""

from __future__ import annotations

import ctypes.util
import os

import dm_env
import numpy as np
from dm_env import specs
from numpy.typing import ArrayLike

from covr_jax.checks import finite_actions

TIME_LIMIT = 1000  # control steps, in every task of the suite's benchmark
_CAMERA = 0
_LIBRARIES = (("OSMesa", "osmesa"), ("EGL", "egl"))  # their names for the linker and for dm_control


class SuiteEnv(dm_env.Environment):
    """A task of dm_control's suite. Observations are images u8[image_size,image_size,3] of its camera 0, by OpenGL.

    Actions are f32[A] in [-1, 1], as the motors of these tasks take them, held for ``action_repeat`` control steps,
    whose rewards are summed.

    Args:
      name: domain and task, such as ``cartpole_swingup``.
      image_size: height and width of the observations, pixels.
      action_repeat: control steps per agent step.
      seed: see ``seed``.

    Raises:
      RuntimeError: there is no OpenGL without a window.
    """

    def __init__(self, name: str, *, image_size: int = 84, action_repeat: int = 1, seed: int = 0):
        found = [name for library, name in _LIBRARIES if ctypes.util.find_library(library)]
        if not found:
            raise RuntimeError("no off-screen OpenGL: install OSMesa (libosmesa6) or EGL (libegl1)")
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = found[0]  # read when the suite is imported
        from dm_control import suite

        self._random, self._repeat, self._size = np.random.RandomState(seed), action_repeat, image_size
        self._env = suite.load(*name.rsplit("_", 1), task_kwargs={"random": self._random})

    def seed(self, seed: int) -> None:
        """Decides the start of the episode that the next ``reset`` begins, and of those after it."""
        self._random.seed(seed)

    def reset(self) -> dm_env.TimeStep:
        """See ``dm_env.Environment``."""
        self._env.reset()
        return dm_env.restart(self._picture())

    def step(self, action: ArrayLike) -> dm_env.TimeStep:
        """See ``dm_env.Environment``; the action is clipped to [-1, 1].

        Raises:
          ValueError: an action of another shape, or that is no finite number.
        """
        action = np.clip(finite_actions(action, self._env.action_spec().shape), -1.0, 1.0)
        timestep = self._env.step(action)
        if timestep.first():  # the action after the end of an episode begins the next one
            return dm_env.restart(self._picture())
        reward = timestep.reward
        for _ in range(self._repeat - 1):
            if timestep.last():
                break
            timestep = self._env.step(action)
            reward += timestep.reward
        return timestep._replace(reward=reward, observation=self._picture())

    def metrics(self) -> dict[str, float]:
        """Nothing: the suite measures the return alone."""
        return {}

    def observation_spec(self) -> specs.BoundedArray:
        """See ``dm_env.Environment``."""
        return specs.BoundedArray((self._size, self._size, 3), np.uint8, 0, 255, name="pixels")

    def action_spec(self) -> specs.BoundedArray:
        """See ``dm_env.Environment``."""
        return specs.BoundedArray(self._env.action_spec().shape, np.float32, -1.0, 1.0, name="motors")

    def close(self) -> None:
        """Frees the OpenGL context."""
        self._env.physics.free()

    def _picture(self) -> np.ndarray:
        return self._env.physics.render(self._size, self._size, camera_id=_CAMERA)
