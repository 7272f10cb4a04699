"""A task as ``brax.envs.Env``: one env, which brax's own training wrappers vmap. Letters: A action."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State
from jaxtyping import Array, Float

from covr_jax.checks import check_actions
from covr_jax.envs.registry import get_task
from covr_jax.envs.vec_env import VecEnv


class BraxEnv(Env):
    """A task for brax's trainers, for example ``sac.train(environment=env, episode_length=env.episode_length, ...)``.

    The tasks never terminate, so ``done`` stays 0 and brax's EpisodeWrapper truncates: give it ``episode_length`` (the
    action repeat is inside the environment; brax's own stays 1).

    Args:
      task: one of ``envs.TASKS``.
      pixels: whether observations are images u8[H,W,3*frame_stack]; False: dm_control's state observation.
      **options: further options of ``VecEnv``.

    Raises:
      ValueError: on construction, for an unknown task.
    """

    def __init__(self, task: str, *, pixels: bool = False, **options: Any):
        self._env = VecEnv(get_task(task), 1, pixels=pixels, **options)
        shape = jax.eval_shape(self._env.reset, jax.random.key(0))[1].observation.shape[1:]
        self._observation_size = shape[0] if len(shape) == 1 else {"pixels": shape}

    @property
    def episode_length(self) -> int:
        """Agent steps of an episode."""
        return self._env.episode_length

    @property
    def observation_size(self) -> Any:
        """Length of the state observation, or ``{"pixels": shape}``."""
        return self._observation_size

    @property
    def action_size(self) -> int:
        """A, numbers of an action."""
        return self._env.action_dim

    @property
    def backend(self) -> str:
        """Name of the physics engine, for brax."""
        return "mjx"

    def reset(self, rng: Array) -> State:
        """Starts an episode; ``rng`` is a typed key or raw key data u32[2], consumed."""
        key = rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)
        state, timestep = self._env.reset(key)
        return State(cast(Any, state), self._observation(timestep.observation), jnp.zeros(()), jnp.zeros(()))

    def step(self, state: State, action: Float[Array, " A"]) -> State:
        """Applies an action in [-1, 1] for one agent step.

        Raises:
          ValueError: an action of another shape, which is known while tracing.
        """
        check_actions(action, (self.action_size,))
        physics, reward = self._env.simulate(cast(Any, state.pipeline_state), action[None])
        physics, timestep = self._env.observe(physics, reward)
        return state.replace(  # pyright: ignore[reportAttributeAccessIssue] -- flax adds it
            pipeline_state=physics, obs=self._observation(timestep.observation), reward=reward[0], done=jnp.zeros(())
        )

    def _observation(self, observation: Array) -> Any:
        return {"pixels": observation[0]} if self._env.pixels else observation[0]
