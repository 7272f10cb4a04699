"""Policies tried on fresh environments: evaluations, and the rollouts that videos are made of."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import runtime
from covr_jax.agents import Learner, LearnerState
from covr_jax.agents.method import Method
from covr_jax.envs import EnvState, HostState, HostVecEnv, VecEnv
from covr_jax.runtime.rng import EVAL, stream
from covr_jax.types import Array, StepType, TimeStep

FINAL_EVALUATION = 1_000_000  # number of the start states of the last evaluation; earlier ones count from 1


def collect_episode_returns(
    rollout: Iterable[tuple[Any, TimeStep]], finished: Callable[[], list[list[Any]]], episodes: int
) -> tuple[np.ndarray, list[Any]]:
    """Returns f64[episodes] of a rollout's episodes, and what ``finished`` says of them.

    The lanes' first episodes come first, then their second ones: so many of each lane, however short some are.
    """
    returns: list[list[float]] = []
    total = np.zeros(())
    for _, timestep in rollout:
        step_type = np.asarray(timestep.step_type)
        returns = returns or [[] for _ in step_type]
        total = np.where(step_type == StepType.FIRST, 0.0, total + np.asarray(timestep.reward, np.float64))
        for env_id in np.nonzero(step_type == StepType.LAST)[0]:
            returns[env_id].append(float(total[env_id]))
        if min(map(len, returns)) * len(returns) >= episodes:
            break
    values, measured = ([item for row in zip(*lanes, strict=False) for item in row] for lanes in (returns, finished()))
    return np.array(values[:episodes]), measured[:episodes]


class Evaluator:
    """Steps the evaluation lanes of a run.

    Args:
      env: the lanes, ``driver`` what steps them (see ``lanes.make_stepper``).
      learner, method: whose policy is tried.
      place: puts a tree where the run's programs expect it.
    """

    def __init__(
        self,
        seed: int,
        env: VecEnv | HostVecEnv,
        driver: Any,
        learner: Learner,
        method: Method,
        place: Callable[[Any], Any],
    ):
        self.env = env
        self._seed, self._driver, self._place = seed, driver, place
        self._residual = method.residual
        self._measured: list[dict[str, float]] = []
        self._mean_action = runtime.jit(
            lambda state, observation, previous: learner.act(state, observation, None, previous)
        )

    def evaluate(self, policy: Callable[[TimeStep, int], Any], episodes: int, number: int) -> np.ndarray:
        """Returns f64[episodes] of a policy (time step, agent step) -> action f32[E,A] on fresh environments.

        Args:
          number: which evaluation this is; equal numbers start from equal states.
        """
        values, self._measured = collect_episode_returns(self.rollout(policy, number), self._driver.finished, episodes)
        return values

    def episode_metrics(self) -> dict[str, float]:
        """What the environment itself measured, by name: means over the episodes of the latest evaluation."""
        names = self._measured[0] if self._measured else {}
        return {name: float(np.mean([episode[name] for episode in self._measured])) for name in names}

    def rollout(
        self, policy: Callable[[TimeStep, int], Any], number: int
    ) -> Iterator[tuple[EnvState | HostState, TimeStep]]:
        """Every evaluation lane, step by step from FIRST without end. A state is gone at the next step."""
        state, timestep = self._driver.reset(self._place(jax.random.fold_in(stream(self._seed, EVAL), number)))
        yield state, timestep
        for step in itertools.count():
            state, timestep = self._driver.step(state, self._place(jnp.asarray(policy(timestep, step))))
            yield state, timestep

    def eval_policy(self, learner: LearnerState) -> Callable[[TimeStep, int], Array]:
        """The mean action of the actor; the VLM has no part in it."""
        if not self._residual:
            return lambda timestep, _: self._mean_action(learner, timestep.observation, None)
        action = jnp.zeros((self.env.num_envs, self.env.action_dim), jnp.float32)

        def policy(timestep: TimeStep, step: int) -> Array:
            nonlocal action
            going_on = timestep.step_type != StepType.FIRST
            previous = jnp.where(going_on[:, None], action, 0.0)
            action = self._mean_action(learner, timestep.observation, previous)
            return action

        return policy

    def random_policy(self, number: int) -> Callable[[TimeStep, int], np.ndarray]:
        """Uniform actions."""
        generator = np.random.default_rng([self._seed, number])
        shape = (self.env.num_envs, self.env.action_dim)
        return lambda timestep, _: generator.uniform(-1.0, 1.0, shape).astype(np.float32)
