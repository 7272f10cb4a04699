"""Runs in which the VLM itself acts: ``vbe``, untuned and alone, and ``vpf``, trained by PPO (small budgets).

Run directory, metrics, checkpoints and result are those of ``loop.train``. Letters: T agent steps of an iteration,
E envs, A action.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import jax.numpy as jnp
import numpy as np

from covr_jax import runtime
from covr_jax.config import Config
from covr_jax.envs.stepper import HostStepper, JitStepper, make_stepper
from covr_jax.io import checkpoint
from covr_jax.io.metrics import MetricsLogger
from covr_jax.io.run_dir import Result
from covr_jax.runtime.rng import ENV, stream
from covr_jax.training import cost_analysis
from covr_jax.training.evaluation import FINAL_EVALUATION
from covr_jax.training.programs import Programs
from covr_jax.training.query_selection import seen
from covr_jax.training.rounds import Reporter
from covr_jax.types import EnvironmentLost, StepType, TimeStep
from covr_jax.vlm.ppo.rollout import Rollout, ppo_batch
from covr_jax.vlm.serving.factory import SyncService, make_vlm
from covr_jax.vlm.serving.protocol import PriorService

ADAPTER = Path("vlm", "adapter")  # of a vpf run


@dataclass
class LoopState:
    """What the loop remembers between iterations; saved with every checkpoint."""

    agent_steps: int = 0
    updates: int = 0
    evaluations: int = 0
    next_eval: int = 0
    next_checkpoint: int = 0
    seconds: float = 0.0  # spent in earlier sittings
    random_return: float = math.nan
    running: list[float] = field(default_factory=list)  # return of the episodes under way, per lane
    last: list[float] = field(default_factory=list)  # of those that ended last
    vlm_counters: dict[str, float] = field(default_factory=dict)


class VLMTrainer:
    """One run of ``vbe`` or ``vpf``."""

    def __init__(self, config: Config, run_dir: Path, reporter: Reporter):
        self.config, self.run_dir, self.reporter = config, run_dir, reporter
        self.programs = Programs(config)
        self.vlm = cast(PriorService, make_vlm(config, self.programs.env.action_dim, run_dir))
        self.checkpointer = checkpoint.Checkpointer(run_dir)
        self.started = time.monotonic()
        lanes = self.programs.env.num_envs
        self.host = LoopState(
            next_eval=config.eval.every,
            next_checkpoint=config.run.checkpoint_every,
            running=[0.0] * lanes,
            last=[math.nan] * lanes,
        )
        self._held = np.zeros((self.programs.evaluator.env.num_envs, self.programs.env.action_dim), np.float32)

    @property
    def env_steps(self) -> int:
        """Trained on so far."""
        return self.host.agent_steps * self.programs.env.action_repeat

    @property
    def seconds(self) -> float:
        """Wall time of all sittings."""
        return self.host.seconds + time.monotonic() - self.started

    def _log(self, row: dict[str, Any]) -> None:
        host = self.host
        self.logger.write(row, env_steps=self.env_steps, agent_steps=host.agent_steps, updates=host.updates)

    def run(self) -> Result:
        """Train (``vpf`` only), evaluate, write metrics.

        Raises:
          EnvironmentLost: a world on the host does not come back; of ``vpf`` a checkpoint has been written.
        """
        try:
            if self.config.method == "vpf":
                self._train()
            else:
                self.logger = MetricsLogger(self.run_dir)
                self._before()
            values = self._evaluate(FINAL_EVALUATION)
            self.logger.close()
        finally:
            self.programs.close()
        mean, std = float(values.mean()), float(values.std())
        return Result(mean, std, self.host.random_return, self.env_steps, self.seconds)

    def _before(self) -> None:
        evaluator = self.programs.evaluator
        values = evaluator.evaluate(evaluator.random_policy(0), self.config.eval.episodes, FINAL_EVALUATION)
        self.host.random_return = float(values.mean())
        self.reporter.message(f"VLM: {self.vlm.model_info.name}, {self.vlm.model_info.parameters}")
        self._log({"eval/random_return": self.host.random_return})

    def _policy(self, timestep: TimeStep, step: int) -> np.ndarray:
        """The most likely answers, f32[E,A]: asked every ``vlm.every`` steps and held, 0 where not understood."""
        if step % (1 if self.config.method == "vpf" else self.config.vlm.every) == 0:
            episodes, frames = self.config.eval.episodes, seen(timestep.observation, self.config.vlm.frames)
            self._held[:episodes] = np.asarray(self.vlm.query(frames[:episodes]).action)
        return self._held

    def _evaluate(self, number: int) -> np.ndarray:
        values = self.programs.evaluator.evaluate(self._policy, self.config.eval.episodes, number)
        row = {"eval/episode_return": values.mean(), "eval/episode_return_std": values.std()}
        row |= {f"eval/{name}": value for name, value in self.programs.evaluator.episode_metrics().items()}
        row |= self.vlm.metrics() | cost_analysis.vlm_budget(self.vlm)
        self._log(row | {"mem/device_peak_bytes": runtime.peak_memory_bytes()})
        self.reporter.message(f"evaluation at {self.env_steps:,} env steps: {values.mean():.0f} ± {values.std():.0f}")
        return values

    # --------------------------------------------------------------------- vpf

    def _train(self) -> None:
        from covr_jax.vlm.ppo.policy import PPOOptions, TokenPolicy

        vpf = self.config.vpf
        options = PPOOptions(**{name: getattr(vpf, name) for name in PPOOptions._fields})
        policy = TokenPolicy(cast(Any, cast(SyncService, self.vlm).engine), options, vpf.value_hidden, self.config.seed)
        env = make_stepper(self.programs.env)
        place = self._begin(env, policy)
        try:
            while self.env_steps < self.config.total_steps:
                place = self._iterate(policy, env, *place)
                if self.env_steps >= self.host.next_eval and self.env_steps < self.config.total_steps:
                    self.host.evaluations += 1
                    self.host.next_eval = self.env_steps + self.config.eval.every
                    self._evaluate(self.host.evaluations)
                if self.env_steps >= self.host.next_checkpoint:
                    self._save(policy, place)
        except EnvironmentLost:  # an iteration under way is begun again
            self._save(policy, place)
            raise
        self.vlm.save_adapter(self.run_dir / ADAPTER)

    def _begin(self, env: JitStepper | HostStepper, policy: Any) -> tuple[Any, TimeStep]:
        """The environments at FIRST, or where the newest checkpoint left them, and all else as it was then."""
        key = stream(self.config.seed, ENV)
        if not self.checkpointer.steps():
            self.logger = MetricsLogger(self.run_dir)
            self._before()
            return env.reset(key)
        place, values, directory = self.checkpointer.restore(lambda: env.abstract_state(key))
        self.host = LoopState(**values)
        try:
            policy.load(directory / "adapter")
        except RuntimeError as error:  # VLMLoadError, without importing Torch
            message = f"cannot read checkpoint {directory}: {error}; delete it to use an older one"
            raise checkpoint.CheckpointError(message) from error
        self.vlm.counters.update(self.host.vlm_counters)
        self.logger = MetricsLogger(self.run_dir, resume_env_steps=self.env_steps)
        self.reporter.message(f"resuming from {directory}")
        return place

    def _iterate(self, policy: Any, env: JitStepper | HostStepper, state: Any, timestep: TimeStep) -> Any:
        """``vpf.steps`` agent steps and what PPO makes of them; where the environments are afterwards."""
        vpf, host, before = self.config.vpf, self.host, time.monotonic()
        running, last = np.array(host.running), np.array(host.last)
        length = math.ceil(vpf.steps / self.programs.env.num_envs)
        shown = self.config.vlm.frames
        rollout, state, timestep = collect(policy, env, state, timestep, length, running, last, shown)
        batch = ppo_batch(rollout, vpf.discount, vpf.gae_decay)
        row = policy.update(batch)
        updates = vpf.epochs * max(1, len(batch.log_prob) // vpf.minibatch)
        host.agent_steps, host.updates = host.agent_steps + rollout.acts.size, host.updates + updates
        host.running, host.last = running.tolist(), last.tolist()
        seconds = time.monotonic() - before
        row |= {
            "train/episode_return": float(np.nanmean(last)) if np.isfinite(last).any() else math.nan,
            "train/reward_per_step": float(rollout.reward[rollout.acts].mean()),
            "train/env_steps_per_second": rollout.acts.size * self.programs.env.action_repeat / seconds,
            "train/updates_per_second": updates / seconds,
        }
        self._log(row)
        self.reporter.update(self.env_steps, row | {"covr/round": 0})
        return state, timestep

    def _save(self, policy: Any, place: Any) -> None:
        self.host.next_checkpoint = self.env_steps + self.config.run.checkpoint_every
        self.host.vlm_counters = dict(self.vlm.counters)
        self.logger.flush()
        self.checkpointer.save(self.env_steps, place, asdict(self.host) | {"seconds": self.seconds}, policy.save)


def collect(
    policy: Any,
    env: JitStepper | HostStepper,
    state: Any,
    timestep: TimeStep,
    length: int,
    running: np.ndarray,
    last: np.ndarray,
    shown: int = 1,
) -> tuple[Rollout, Any, TimeStep]:
    """``length`` agent steps with sampled answers, and where they lead.

    Args:
      policy: a ``TokenPolicy``.
      shown: frames that the VLM sees of an observation.
      running, last: f64[E], return of the episodes under way and of those that ended last; changed in place.
    """
    rows: dict[str, list[Any]] = {name: [] for name in Rollout._fields}
    for _ in range(length):
        frames = seen(timestep.observation, shown)
        took = policy.take(frames)
        rows["frames"].append(frames)
        rows["took"].append(took)
        rows["value"].append(took.value)
        acts = np.asarray(timestep.step_type) != StepType.LAST
        state, timestep = env.step(state, jnp.asarray(took.action))
        # A world on the host may begin anew in mid-episode: this action was ignored, and the one before was the last.
        broken = acts & (np.asarray(timestep.step_type) == StepType.FIRST)
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
    rows["value"].append(policy.values(seen(timestep.observation, shown), rows["took"][-1].tokens))
    arrays = {name: np.stack(rows[name]) for name in ("acts", "reward", "ends", "discount", "value")}
    return Rollout(jnp.stack(rows["frames"]), rows["took"], **arrays), state, timestep
