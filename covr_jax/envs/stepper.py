"""The lanes of environments as ``Programs`` steps them: in compiled pieces, or on the host. The verbs are the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import replay, runtime
from covr_jax.config import Config, ConfigError
from covr_jax.envs import EnvState, HostState, HostTask, HostVecEnv, VecEnv
from covr_jax.envs.task import Task
from covr_jax.render import RendererError
from covr_jax.replay import ReplayState
from covr_jax.types import Array, StepType, TimeStep


class JitStepper:
    """``reset`` and ``step`` of a VecEnv in three compiled pieces, so that drawing is compiled once for both."""

    def __init__(self, env: VecEnv, place: Callable[[Any], Any] = lambda x: x):
        self._initial = runtime.jit(env.initial)
        self._advance = runtime.jit(env.advance, donate_argnums=0)
        self._observe = runtime.jit(env.observe, donate_argnums=0)
        self._no_reward = place(jnp.zeros((env.num_envs,), jnp.float32))

    def reset(self, key: Array) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.reset``."""
        return self._observe(self._initial(key), self._no_reward)

    abstract_state = reset  # a state to restore a checkpoint into

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.step``; the state is donated."""
        return self._observe(*self._advance(state, action))

    def cut(self, store: ReplayState, before: TimeStep, after: TimeStep) -> ReplayState:
        """Nothing: compiled episodes always end with LAST."""
        del before, after
        return store

    def finished(self) -> list[list[dict[str, float]]]:
        """Nothing: the suite measures the return alone."""
        return []

    def close(self) -> None:
        """Nothing to close."""


class HostStepper:
    """``reset`` and ``step`` of a HostVecEnv with their results on the device."""

    def __init__(self, env: HostVecEnv, place: Callable[[Any], Any] = lambda x: x):
        self._env = env
        self._place = place
        self._cut = runtime.jit(replay.cut, donate_argnums=0)
        self.finished, self.close = env.finished, env.close

    def _on_device(self, tree: Any) -> Any:
        return self._place(jax.tree.map(jnp.asarray, tree))

    def reset(self, key: Array) -> tuple[HostState, TimeStep]:
        """As ``HostVecEnv.reset``, from a typed key."""
        return self._on_device(self._env.reset(np.asarray(jax.random.key_data(key))))

    def abstract_state(self, key: Array) -> tuple[HostState, TimeStep]:
        """As ``HostVecEnv.abstract_state``, from a typed key."""
        return self._on_device(self._env.abstract_state(np.asarray(jax.random.key_data(key))))

    def step(self, state: HostState, action: Array) -> tuple[HostState, TimeStep]:
        """As ``HostVecEnv.step``."""
        return self._on_device(self._env.step(state, action))

    def cut(self, store: ReplayState, before: TimeStep, after: TimeStep) -> ReplayState:
        """Where ``after`` is FIRST without ``before``, the newest in the replay, having been LAST: see ``replay.cut``.

        The replay is donated.
        """
        lanes = np.asarray(after.step_type) == StepType.FIRST
        lanes &= np.asarray(before.step_type) != StepType.LAST
        return self._cut(store, lanes) if lanes.any() else store


def make_stepper(env: VecEnv | HostVecEnv, place: Callable[[Any], Any] = lambda x: x) -> Any:
    """``JitStepper`` or ``HostStepper``, as the environment wants it."""
    return HostStepper(env, place) if isinstance(env, HostVecEnv) else JitStepper(env, place)


def make_envs(config: Config, task: Task | HostTask, frame_stack: int) -> tuple[Any, Any]:
    """The environments of a run, for training and for evaluation: two VecEnvs or one HostVecEnv.

    A compiled evaluation has a lane for each of its episodes. Simulators on the host are dear: training and evaluation
    share them, and an evaluation breaks off the training episodes under way.

    Raises:
      ConfigError: options that do not fit together.
    """
    env = config.env
    options = {"action_repeat": env.action_repeat, "image_size": env.image_size, "frame_stack": frame_stack}
    distractors = config.eval.distractors or env.distractors
    if isinstance(task, HostTask):
        if (env.distractors, distractors, config.renderer) != ("none", "none", "jax"):
            raise ConfigError(f"{task.name} draws its own pictures: leave --renderer and the distractors out")
        worlds = HostVecEnv(task, env.num_envs, **options)
        return worlds, worlds
    make = partial(VecEnv, task, samples=env.samples, renderer=config.renderer, **options)
    lanes = max(env.num_envs, config.eval.episodes)
    try:
        training = make(env.num_envs, distractors=env.distractors)
        same = (lanes, distractors) == (env.num_envs, env.distractors)
        return training, training if same else make(lanes, distractors=distractors)
    except (RendererError, ValueError) as error:
        raise ConfigError(str(error)) from error
