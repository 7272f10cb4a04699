"""Evaluates policies on fresh environments: evaluations, and the rollouts that videos are made of. E envs, A action."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from covr_jax import runtime
from covr_jax.agents import Learner, LearnerState
from covr_jax.agents.method import Method
from covr_jax.envs import EnvState, HostState, HostVecEnv, VecEnv
from covr_jax.envs.stepper import HostStepper, JitStepper
from covr_jax.runtime import hosts
from covr_jax.runtime.rng import EVAL, stream
from covr_jax.types import Diverged, StepType, TimeStep

FINAL_EVALUATION = 1_000_000  # number of the last evaluation, which decides its start states; earlier ones count from 1

Policy = Callable[[TimeStep, int], Any]  # (time step, agent step) -> action f32[E,A]


_MAX_BROKEN = 10  # of the episodes that begin, one in so many must come to its end


def collect_episode_returns(
    rollout: Iterable[tuple[Any, TimeStep]], finished: Callable[[], list[list[Any]]], episodes: int
) -> tuple[np.ndarray, list[Any]]:
    """Collects the same number of episode returns from every environment, however short some episodes are.

    Args:
      rollout: states and time steps, without end.
      finished: per environment, one record for each episode that has ended.
      episodes: how many returns to collect.

    Returns:
      f64[episodes], the first episodes of all environments before their second ones, and their records.

    Raises:
      Diverged: episode after episode is broken off.
    """
    returns: list[list[float]] = []
    total, begun = np.zeros(()), 0
    for _, timestep in rollout:
        step_type = hosts.fetch(timestep.step_type)
        begun += int((step_type == StepType.FIRST).sum())
        if begun > _MAX_BROKEN * (len(step_type) + sum(map(len, returns))):
            raise Diverged(f"of {begun} episodes of an evaluation {sum(map(len, returns))} came to their end")
        returns = returns or [[] for _ in step_type]
        total = np.where(step_type == StepType.FIRST, 0.0, total + hosts.fetch(timestep.reward).astype(np.float64))
        for env_id in np.nonzero(step_type == StepType.LAST)[0]:
            returns[env_id].append(float(total[env_id]))
        if min(map(len, returns)) * len(returns) >= episodes:
            break
    values, measured = ([item for row in zip(*envs, strict=False) for item in row] for envs in (returns, finished()))
    return np.array(values[:episodes]), measured[:episodes]


class Evaluator:
    """Steps the evaluation environments of a run.

    Attributes:
      env: the evaluation environments.
    """

    def __init__(
        self,
        seed: int,
        env: VecEnv | HostVecEnv,
        stepper: JitStepper | HostStepper,
        learner: Learner,
        method: Method,
        device_put: Callable[[Any], Any],
    ):
        """Creates an evaluator; nothing is compiled yet.

        Args:
          seed: of the run.
          env: the evaluation environments.
          stepper: steps ``env``.
          learner: whose policy is evaluated.
          method: of the learner.
          device_put: puts a tree where the run's programs expect it.
        """
        self.env = env
        self._seed, self._stepper, self._device_put = seed, stepper, device_put
        self._residual = method.residual
        self._measured: list[dict[str, float]] = []
        self.mean_action = runtime.jit(
            lambda state, observation, previous: learner.act(state, observation, None, previous)
        )

    def of_seed(self, seed: int) -> Evaluator:
        """Returns the evaluator of a run that differs in its seed alone; the two share what is compiled."""
        other = copy.copy(self)
        other._seed = seed
        return other

    def evaluate(self, policy: Policy, episodes: int, number: int) -> np.ndarray:
        """Returns f64[episodes] of a policy on fresh environments.

        Args:
          policy: (time step, agent step) -> action f32[E,A].
          episodes: how many returns.
          number: which evaluation this is; equal numbers start from equal states.
        """
        rollout = self.rollout(policy, number)
        values, self._measured = collect_episode_returns(rollout, self._stepper.finished, episodes)
        return values

    def close(self) -> None:
        """Closes the environments on the host."""
        self._stepper.close()

    def episode_metrics(self) -> dict[str, float]:
        """What the environment itself measured, by name: means over the episodes of the latest evaluation."""
        names = self._measured[0] if self._measured else {}
        return {name: float(np.mean([episode[name] for episode in self._measured])) for name in names}

    def rollout(self, policy: Policy, number: int) -> Iterator[tuple[EnvState | HostState, TimeStep]]:
        """Yields states and time steps of every environment from FIRST on, without end.

        A state is invalid after the next one was requested: its buffers are donated.
        """
        key = jax.random.fold_in(stream(self._seed, EVAL), number)
        state, timestep = self._stepper.reset(self._device_put(key))
        yield state, timestep
        for step in itertools.count():
            action = self._device_put(jnp.asarray(policy(timestep, step)))
            state, timestep = self._stepper.step(state, action)  # pyright: ignore[reportArgumentType]
            yield state, timestep

    def eval_policy(self, learner: LearnerState) -> Policy:
        """The mean action of the actor; the VLM has no part in it."""
        if not self._residual:
            return lambda timestep, _: self.mean_action(learner, timestep.observation, None)
        action = jnp.zeros((self.env.num_envs, self.env.action_dim), jnp.float32)

        def policy(timestep: TimeStep, step: int) -> Array:
            nonlocal action
            going_on = timestep.step_type != StepType.FIRST
            previous = jnp.where(going_on[:, None], action, 0.0)
            action = self.mean_action(learner, timestep.observation, previous)
            return action

        return policy

    def random_policy(self, number: int) -> Policy:
        """Uniform actions in [-1, 1]; ``number`` decides which."""
        generator = np.random.default_rng([self._seed, number])
        shape = (self.env.num_envs, self.env.action_dim)
        return lambda timestep, _: generator.uniform(-1.0, 1.0, shape).astype(np.float32)
