"""Steps the environments of a run: in compiled pieces, or on the host. Both steppers have the same methods. E envs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from covr_jax import runtime
from covr_jax.config import Config, ConfigError, required
from covr_jax.envs import EnvState, HostState, HostTask, HostVecEnv, VecEnv
from covr_jax.envs.task import Task
from covr_jax.render import RendererError
from covr_jax.runtime.ahead import Ahead
from covr_jax.runtime.kept import Program
from covr_jax.types import Diverged, TimeStep

Wrapper = Callable[[Callable[..., Any]], Callable[..., Any]]


def _as_it_is(value: Any) -> Any:
    return value


class JitStepper:
    """``reset`` and ``step`` of a VecEnv in compiled pieces, so that drawing is compiled once for both, and cached."""

    def __init__(self, env: VecEnv, device_put: Callable[[Any], Any] = _as_it_is, keeping: Wrapper = _as_it_is):
        self._initial = Program(runtime.jit(keeping(env.initial), rarely=True))
        self._advance = Program(runtime.jit(keeping(env.advance), donate_argnums=0))
        self._observe = Program(runtime.jit(keeping(env.observe), donate_argnums=0))
        self._host_fields = runtime.jit(env.host_fields)
        self._no_reward = device_put(jnp.zeros((env.num_envs,), jnp.float32))
        self.action = jax.ShapeDtypeStruct((env.num_envs, env.action_dim), jnp.float32)
        self._ahead = Ahead()

    def begin_compiling(self, ahead: Ahead, key: Array) -> tuple[EnvState, TimeStep]:
        """Begins to compile everything but what calls the host, which is small.

        Args:
          ahead: takes the programs.
          key: as ``reset`` takes it.

        Returns:
          The shapes of a state and a time step.
        """
        self._ahead = ahead
        state = ahead.begin("starts", self._initial, key)
        fields = jax.eval_shape(self._host_fields, state)
        shapes = ahead.begin("picture", self._observe, state, self._no_reward, fields)  # takes longest
        ahead.begin("physics", self._advance, state, self.action)
        return shapes

    def reset(self, key: Array) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.reset``."""
        self._ahead.wait("starts", "picture")
        return self.observe(self._initial(key), self._no_reward)

    def abstract_state(self, key: Array) -> tuple[EnvState, TimeStep]:
        """A state and a time step to restore a checkpoint into."""
        return self.reset(key)

    def step(self, state: EnvState, action: Array) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.step``; the state is donated."""
        self._ahead.wait("physics")
        return self.observe(*self._advance(state, action))

    def observe(self, state: EnvState, reward: Array) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.observe``; the state is donated."""
        return self._observe(state, reward, self._host_fields(state))

    def finished(self) -> list[list[dict[str, float]]]:
        """Empty: the suite measures the return alone."""
        return []

    def close(self) -> None:
        """Does nothing; see ``HostStepper.close``."""


class HostStepper:
    """``reset`` and ``step`` of a HostVecEnv with their results on the device."""

    def __init__(self, env: HostVecEnv, device_put: Callable[[Any], Any] = _as_it_is):
        self._env = env
        self._device_put = device_put
        self.finished, self.close = env.finished, env.close

    def _to_device(self, tree: Any) -> Any:
        return self._device_put(jax.tree.map(jnp.asarray, tree))

    def reset(self, key: Array) -> tuple[HostState, TimeStep]:
        """As ``HostVecEnv.reset``, from a typed key."""
        return self._to_device(self._env.reset(np.asarray(jax.random.key_data(key))))

    def abstract_state(self, key: Array) -> tuple[HostState, TimeStep]:
        """A state and a time step to restore a checkpoint into; no environment is opened for them."""
        return self._to_device(self._env.abstract_state(np.asarray(jax.random.key_data(key))))

    def step(self, state: HostState, action: Array | np.ndarray) -> tuple[HostState, TimeStep]:
        """As ``HostVecEnv.step``, from actions f32[E,A] in [-1, 1].

        Raises:
          Diverged: an action is not finite, so that the policy which chose it is not.
        """
        action = np.asarray(action)
        if not np.isfinite(action).all():
            raise Diverged("an action of the policy is not finite")
        return self._to_device(self._env.step(state, action))


def make_stepper(
    env: VecEnv | HostVecEnv, device_put: Callable[[Any], Any] = _as_it_is, keeping: Wrapper = _as_it_is
) -> JitStepper | HostStepper:
    """The stepper of an environment.

    Args:
      env: the environment.
      device_put: puts results where the run's programs expect them.
      keeping: does so inside of a program.
    """
    return HostStepper(env, device_put) if isinstance(env, HostVecEnv) else JitStepper(env, device_put, keeping)


def make_envs(config: Config, task: Task | HostTask, frame_stack: int) -> tuple[Any, Any]:
    """The environments of a run, for training and for evaluation: two VecEnvs or one HostVecEnv.

    A compiled evaluation has one environment for each of its episodes. Simulators on the host are expensive: training
    and evaluation share them, and an evaluation breaks off the current training episodes.

    Raises:
      ConfigError: options that do not fit together.
    """
    env = config.env
    options = {"action_repeat": env.action_repeat, "image_size": env.image_size, "frame_stack": frame_stack}
    distractors = required(config.eval.distractors)
    if isinstance(task, HostTask):
        if (env.distractors, distractors, config.renderer) != ("none", "none", "jax"):
            raise ConfigError(f"{task.name} draws its own pictures: leave --renderer and the distractors out")
        host_env = HostVecEnv(task, env.num_envs, **options)
        return host_env, host_env
    make = partial(VecEnv, task, samples=env.samples, renderer=config.renderer, physics=env.physics, **options)
    eval_envs = max(env.num_envs, config.eval.episodes)
    try:
        training = make(env.num_envs, distractors=env.distractors)
        same = (eval_envs, distractors) == (env.num_envs, env.distractors)
        return training, training if same else make(eval_envs, distractors=distractors)
    except (RendererError, ValueError) as error:
        raise ConfigError(str(error)) from error
