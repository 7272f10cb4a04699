"""Steps the environments of several seeds in one program. S seeds, E envs of each, A action."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from covr_jax import runtime
from covr_jax.envs.stepper import Wrapper
from covr_jax.envs.vec_env import EnvState, VecEnv
from covr_jax.types import TimeStep


def resized(env: VecEnv, num_envs: int) -> VecEnv:
    """Returns the same environments in another number; engine and renderer, of JAX both, are shared."""
    other = copy.copy(env)
    other.num_envs = num_envs
    return other


def joined(function: Callable[..., Any], seeds: int, num_envs: int) -> Callable[..., Any]:
    """Makes a function of arrays [seeds * num_envs,...] one of arrays [seeds,num_envs,...]."""

    def called(*arguments: Any) -> Any:
        flat = jax.tree.map(lambda x: x.reshape(seeds * num_envs, *x.shape[2:]), arguments)
        return jax.tree.map(lambda x: x.reshape(seeds, num_envs, *x.shape[1:]), function(*flat))

    return called


class SeedStepper:
    """``reset`` and ``step`` of compiled environments as ``JitStepper`` has them, with a leading axis S.

    The environments of all seeds are stepped as S * E environments of one VecEnv, and not by ``jax.vmap``: that would
    turn what is computed only where an episode begins into work of every step.
    """

    def __init__(self, env: VecEnv, seeds: int, local: int, split: Wrapper):
        """Creates a stepper; nothing is compiled yet.

        Args:
          env: of one seed; with physics mjx and renderer jax.
          seeds: S.
          local: seeds of a device.
          split: makes a function of the arrays of ``local`` seeds one of all seeds' arrays.
        """
        wide = resized(env, local * env.num_envs)
        self._no_reward = jnp.zeros((seeds, env.num_envs), jnp.float32)
        self._initial = runtime.jit(split(jax.vmap(env.initial)), rarely=True)
        self._advance = runtime.jit(split(joined(wide.advance, local, env.num_envs)), donate_argnums=0)
        self._observe = runtime.jit(split(joined(wide.observe, local, env.num_envs)), donate_argnums=0)

    def reset(self, keys: Key[Array, " S"]) -> tuple[EnvState, TimeStep]:
        """Starts an episode in every environment: the one that ``VecEnv.reset`` starts with the key of its seed."""
        return self._observe(self._initial(keys), self._no_reward)

    def step(self, state: EnvState, action: Float[Array, "S E A"]) -> tuple[EnvState, TimeStep]:
        """As ``VecEnv.step``; the state is donated."""
        return self._observe(*self._advance(state, action))

    def close(self) -> None:
        """Does nothing: compiled environments hold nothing on the host."""
