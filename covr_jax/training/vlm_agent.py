"""Runs in which the VLM itself acts: ``vbe``, untuned and alone, and ``vpf``, trained by PPO (small budgets).

T agent steps of an iteration, E envs, A action.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from covr_jax import runtime
from covr_jax.config import Config
from covr_jax.envs.stepper import HostStepper, JitStepper
from covr_jax.io.reporter import Reporter
from covr_jax.runtime.rng import ENV, stream
from covr_jax.training import cost_analysis
from covr_jax.training.estimate import Estimate
from covr_jax.training.evaluation import Policy
from covr_jax.training.loop_state import LoopState
from covr_jax.training.programs import Programs
from covr_jax.training.queries import vlm_frames
from covr_jax.training.trainer import Trainer
from covr_jax.types import StepType, Stop, TimeStep, never
from covr_jax.vlm.ppo.rollout import Rollout, ppo_batch
from covr_jax.vlm.serving.factory import SyncService, make_vlm
from covr_jax.vlm.serving.protocol import PriorService

ADAPTER = Path("vlm", "adapter")  # of a vpf run, in its run directory


@dataclass
class VLMLoopState(LoopState):
    """What the loop remembers between iterations."""

    agent_steps: int = 0
    updates: int = 0
    running: list[float] = field(default_factory=list)  # return of the current episode, per env
    last: list[float] = field(default_factory=list)  # return of the last finished episode, per env; NaN before it


class VLMTrainer(Trainer):
    """One run of ``vbe`` or ``vpf``."""

    loop: VLMLoopState
    vlm: PriorService

    def __init__(self, config: Config, run_dir: Path, reporter: Reporter, stop: Stop = never):
        programs = Programs(config)
        vlm = cast(PriorService, make_vlm(config, programs.parts.env.action_dim, run_dir))
        super().__init__(config, run_dir, reporter, stop, programs, vlm)
        self.trains = config.method == "vpf"
        num_envs = programs.parts.env.num_envs
        self.state = None
        self.loop = VLMLoopState(
            next_eval=config.eval.every,
            next_checkpoint=config.run.checkpoint_every,
            running=[0.0] * num_envs,
            last=[math.nan] * num_envs,
        )
        self._evaluation, self._collection = self._estimates()
        self._held_action = np.zeros((programs.evaluator.env.num_envs, programs.parts.env.action_dim), np.float32)
        self._token_policy = self._make_token_policy() if self.trains else None
        self.open_log(resumed=self._restore_newest())

    def _estimates(self) -> tuple[Estimate, Estimate]:
        """How long the queries of one evaluation and those of the whole run take."""
        config, evaluated, env = self.config, self.programs.evaluator.env, self.programs.parts.env
        every = 1 if self.trains else config.vlm.every
        length = evaluated.episode_length * math.ceil(config.eval.episodes / evaluated.num_envs)
        whole = math.ceil(config.total_steps / (env.action_repeat * env.num_envs))
        return (
            Estimate("each evaluation", math.ceil(length / every), self.reporter.message),
            Estimate("the answers of this run, updates come on top", whole, self.reporter.message),
        )

    def _make_token_policy(self) -> Any:
        from covr_jax.vlm.ppo.policy import PPOOptions, TokenPolicy

        vpf = self.config.vpf
        options = PPOOptions(**{name: getattr(vpf, name) for name in PPOOptions._fields})
        engine = cast(Any, cast(SyncService, self.vlm).engine)
        return TokenPolicy(engine, options, vpf.value_hidden, self.config.seed)

    def _restore_newest(self) -> bool:
        """Restores the newest checkpoint of a ``vpf`` run. Returns whether there is one."""
        if self._token_policy is None or not self.checkpointer.steps():
            return False
        key = stream(self.config.seed, ENV)
        directory = self.restore(lambda: self.programs.stepper.abstract_state(key), VLMLoopState)
        self.restore_adapter(directory, self._token_policy.load)
        self.vlm.counters.update(self.loop.vlm_counters)
        self.reporter.message(f"resuming from {directory}")
        return True

    # ------------------------------------------------------------------- hooks

    @property
    def agent_steps(self) -> int:
        """Agent steps trained on so far."""
        return self.loop.agent_steps

    @property
    def updates(self) -> int:
        """PPO updates so far."""
        return self.loop.updates

    def policy(self) -> Policy:
        """The most likely answers, f32[E,A]; 0 where an answer was not understood.

        ``vbe`` queries the VLM every ``vlm.every`` agent steps and holds its answer in between.
        """
        return self._act

    def _act(self, timestep: TimeStep, step: int) -> np.ndarray:
        if step % (1 if self.config.method == "vpf" else self.config.vlm.every) == 0:
            episodes, frames = self.config.eval.episodes, vlm_frames(timestep.observation, self.config.vlm.frames)
            self._held_action[:episodes] = np.asarray(self.vlm.query(frames[:episodes]).action)
            self._evaluation.step()
        return self._held_action

    def begin(self) -> None:
        """Measures random actions; ``vpf`` then resets its environments."""
        row = self.measure_random()
        self.reporter.message(f"VLM: {self.vlm.model_info.name}, {self.vlm.model_info.parameters}")
        self.log(row)
        if self.trains:
            self.state = self.programs.stepper.reset(stream(self.config.seed, ENV))

    def evaluation_metrics(self, *, final: bool) -> dict[str, float]:
        """What the VLM costs."""
        del final
        costs = self.vlm.metrics() | cost_analysis.vlm_costs(self.vlm)
        return costs | {"mem/device_peak_bytes": runtime.peak_memory_bytes()}

    def adapter_writer(self) -> Callable[[Path], Any] | None:
        """Writes adapter, value head and optimiser."""
        return self._token_policy.save if self._token_policy else None

    def after_training(self) -> None:
        """Writes the adapter that the run has trained."""
        if self.trains:
            self.vlm.save_adapter(self.run_dir / ADAPTER)

    def iterate(self) -> None:
        """``vpf.steps`` agent steps, and PPO on them."""
        vpf, loop, before = self.config.vpf, self.loop, time.monotonic()
        running, last = np.array(loop.running), np.array(loop.last)
        length = math.ceil(vpf.steps / self.programs.parts.env.num_envs)
        policy, stepper, num_frames = cast(Any, self._token_policy), self.programs.stepper, self.config.vlm.frames
        state, timestep = self.state
        rollout, state, timestep = collect(
            policy, stepper, state, timestep, length, running, last, num_frames, self._collection.step
        )
        batch = ppo_batch(rollout, vpf.discount, vpf.gae_decay)
        row = policy.update(batch)
        updates = vpf.epochs * max(1, len(batch.log_prob) // vpf.minibatch)
        self.state = state, timestep
        loop.agent_steps, loop.updates = loop.agent_steps + rollout.acts.size, loop.updates + updates
        loop.running, loop.last = running.tolist(), last.tolist()
        seconds = time.monotonic() - before
        row |= {
            "train/episode_return": float(np.nanmean(last)) if np.isfinite(last).any() else math.nan,
            "train/reward_per_step": float(rollout.reward[rollout.acts].mean()),
            "train/env_steps_per_second": rollout.acts.size * self.programs.parts.env.action_repeat / seconds,
            "train/updates_per_second": updates / seconds,
        }
        self.log(row)
        self.reporter.update(self.env_steps, row | {"covr/round": 0})


def collect(
    policy: Any,
    stepper: JitStepper | HostStepper,
    state: Any,
    timestep: TimeStep,
    length: int,
    running: np.ndarray,
    last: np.ndarray,
    num_frames: int = 1,
    stepped: Callable[[], None] = lambda: None,
) -> tuple[Rollout, Any, TimeStep]:
    """Makes ``length`` agent steps with sampled answers.

    Args:
      policy: a ``TokenPolicy``.
      stepper: steps the environments.
      state: of the environments.
      timestep: their latest one.
      length: T.
      running: f64[E], returns of the current episodes; changed in place.
      last: f64[E], returns of the last finished episodes; changed in place.
      num_frames: newest frames of an observation that the VLM sees.
      stepped: called after every agent step.

    Returns:
      the rollout, and the state and time step after it.
    """
    rows: dict[str, list[Any]] = {name: [] for name in Rollout._fields}
    for _ in range(length):
        frames = vlm_frames(timestep.observation, num_frames)
        sampled = policy.sample(frames)
        rows["frames"].append(frames)
        rows["sampled"].append(sampled)
        rows["value"].append(sampled.value)
        acts = np.asarray(timestep.step_type) != StepType.LAST
        state, timestep = stepper.step(state, jnp.asarray(sampled.action))
        broken = acts & (np.asarray(timestep.step_type) == StepType.FIRST)
        # Where an episode was broken off, this action was ignored and the one before was the episode's last.
        running[broken] = 0.0
        if rows["ends"]:
            rows["ends"][-1] = rows["ends"][-1] | broken
        rows["acts"].append(acts & ~broken)
        ends = np.asarray(timestep.step_type) == StepType.LAST
        rows["reward"].append(np.asarray(timestep.reward))
        rows["discount"].append(np.asarray(timestep.discount))
        rows["ends"].append(ends)
        running += rows["reward"][-1]
        last[ends], running[ends] = running[ends], 0.0
        stepped()
    rows["value"].append(policy.values(vlm_frames(timestep.observation, num_frames), rows["sampled"][-1].tokens))
    arrays = {name: np.stack(rows[name]) for name in ("acts", "reward", "ends", "discount", "value")}
    return Rollout(jnp.stack(rows["frames"]), rows["sampled"], **arrays), state, timestep
