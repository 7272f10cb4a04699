"""A task as ``brax.envs.Env``: one world, to be vmapped and wrapped by brax's own training wrappers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from brax.envs.base import Env, State

from covr_jax.envs.vec_env import make
from covr_jax.types import Array


class BraxEnv(Env):
    """``brax.training.agents.sac.train(environment=BraxEnv("reacher_easy"), episode_length=env.episode_length, ...)``.

    The tasks never terminate, so ``done`` stays 0 and brax's EpisodeWrapper truncates: give it ``episode_length`` (the
    action repeat is inside the environment; brax's own stays 1). Observations are dm_control's state by default;
    ``pixels=True`` gives u8[H,W,3*stack].
    """

    def __init__(self, task: str, *, pixels: bool = False, **options: Any):
        """``options`` as for ``envs.make``. Raises ValueError for an unknown task."""
        self._env = make(task, 1, pixels=pixels, **options)
        shape = jax.eval_shape(self._env.reset, jax.random.key(0))[1].observation.shape[1:]
        self._observation_size = shape[0] if len(shape) == 1 else {"pixels": shape}

    @property
    def episode_length(self) -> int:
        """Agent steps of an episode."""
        return self._env.episode_length

    @property
    def observation_size(self) -> Any:
        """Length of the state, or ``{"pixels": shape}``."""
        return self._observation_size

    @property
    def action_size(self) -> int:
        """A, numbers of an action."""
        return self._env.action_dim

    @property
    def backend(self) -> str:
        """Name of the physics, for brax."""
        return "mjx"

    def reset(self, rng: Array) -> State:
        """``rng``: a typed key or a raw uint32[2] one, consumed."""
        key = rng if jnp.issubdtype(rng.dtype, jax.dtypes.prng_key) else jax.random.wrap_key_data(rng)
        state, timestep = self._env.reset(key)
        return State(state, self._observed(timestep.observation), jnp.zeros(()), jnp.zeros(()))

    def step(self, state: State, action: Array) -> State:
        """One agent step; action f32[A] in [-1, 1]."""
        physics, reward = self._env.simulate(state.pipeline_state, action[None])
        physics, timestep = self._env.observe(physics, reward)
        return state.replace(
            pipeline_state=physics, obs=self._observed(timestep.observation), reward=reward[0], done=jnp.zeros(())
        )

    def _observed(self, observation: Array) -> Any:
        return {"pixels": observation[0]} if self._env.pixels else observation[0]
