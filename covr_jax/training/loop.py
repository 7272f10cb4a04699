"""``train()`` and ``evaluate()``: the host loop that dispatches compiled chunks, talks to the VLM and logs.

A run is a directory; the same command on it resumes from its newest checkpoint. The loop's own state is small and
lives in ``LoopState``; everything on the device lives in ``TrainState``.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from covr_jax import config as configuration
from covr_jax import replay, runtime
from covr_jax.config import GUIDED, VLM_POLICY_METHODS, Config
from covr_jax.config.validate import validate
from covr_jax.covr import guidance, schedule
from covr_jax.io import checkpoint
from covr_jax.io.metrics import MetricsLogger
from covr_jax.io.run_dir import Result, check_config, claim, write_json
from covr_jax.runtime.profiling import CompileLog, chunk_annotation
from covr_jax.training import cost_analysis
from covr_jax.training.evaluation import FINAL_EVALUATION
from covr_jax.training.programs import Programs
from covr_jax.training.queries import QueryManager
from covr_jax.training.rounds import FinetuneScheduler, Reporter, warn_about_schedule
from covr_jax.training.selection import DataSelector
from covr_jax.training.state import TrainState
from covr_jax.training.vlm_agent import VLMTrainer
from covr_jax.types import EnvironmentLost
from covr_jax.vlm.serving.factory import make_vlm


@dataclass
class LoopState:
    """What the loop remembers between chunks; saved with every checkpoint."""

    rounds: int = 0
    data_start: list[int] = field(default_factory=list)  # first slot of D_f, per lane
    evaluations: int = 0
    next_eval: int = 0
    next_log: int = 0
    next_checkpoint: int = 0
    seconds: float = 0.0  # spent in earlier sittings
    random_return: float = math.nan
    vlm_counters: dict[str, float] = field(default_factory=dict)
    asked: int = 0  # of the conversation with the VLM
    skipped: int = 0


class Trainer:
    """The parts of one run and the verbs of its loop."""

    def __init__(self, config: Config, run_dir: Path, reporter: Reporter):
        self.config, self.run_dir, self.reporter = config, run_dir, reporter
        self.compile_log = CompileLog()
        self.programs = Programs(config)
        self.vlm = make_vlm(config, self.programs.answer_dim, run_dir)
        guides = self.vlm if config.method in GUIDED else None  # maps are neither taught nor tried as actions
        self.finetune_scheduler = FinetuneScheduler(config, self.programs, guides, run_dir) if guides else None
        covr = config.covr
        self.elite = DataSelector(config, self.programs) if config.replay.sampling == "elite" and not self.vlm else None
        tuned = config.method == "covr" or self.elite  # the other guided methods leave their VLM as it is
        self.rounds = schedule.round_steps(covr.psi_0, config.total_steps, covr.schedule) if tuned else []
        self.checkpointer = checkpoint.Checkpointer(run_dir)
        self.started = time.monotonic()
        self.logged_compile = False
        self.state, self.host, resumed = self._begin()
        counts = self.host.asked, self.host.skipped
        self.conversation = QueryManager(self.programs, self.vlm, *counts) if self.vlm else None
        self.updates_since, self.steps_since = int(self.state.learner.updates), self.env_steps
        self.time_since = time.monotonic()
        self.logger = MetricsLogger(run_dir, resume_env_steps=self.env_steps if resumed else None)

    def _begin(self) -> tuple[TrainState, LoopState, bool]:
        config = self.config
        predicted, store = self.programs.replay_bytes, config.replay
        self.reporter.message(
            f"replay: {predicted / 1e6:.0f} MB of {store.storage} memory for {store.capacity:,} transitions"
        )
        if not self.checkpointer.steps():
            host = LoopState(data_start=[0] * config.env.num_envs, next_checkpoint=config.run.checkpoint_every)
            return self.programs.init(), host, False
        state, values, directory = self.checkpointer.restore(lambda: self.programs.init(begin=False))
        host = LoopState(**values)
        if self.vlm:
            try:
                self.vlm.restore(directory / "adapter", host.vlm_counters, int(state.replay.count))
            except RuntimeError as error:  # VLMLoadError, without importing Torch
                message = f"cannot read checkpoint {directory}: {error}; delete it to use an older one"
                raise checkpoint.CheckpointError(message) from error
        self.reporter.message(f"resuming from {directory}")
        return state, host, True

    # ------------------------------------------------------------------ counts

    @property
    def env_steps(self) -> int:
        """Agent steps x action repeat so far, the x of every curve."""
        return int(self.state.progress.transitions) * self.programs.env.action_repeat

    @property
    def seconds(self) -> float:
        """Wall time of all sittings."""
        return self.host.seconds + time.monotonic() - self.started

    @property
    def guided(self) -> bool:
        """Whether the VLM is asked: with `covr` once the cold start is over, with `apl` while its answers have weight,
        with all other methods always.
        """
        if self.config.method == "apl":
            return self.env_steps < self.config.covr.anneal_steps
        if self.vlm is None or self.config.method != "covr":
            return self.vlm is not None
        return schedule.gate_open(self.host.rounds, self.config.cold_start_rounds)

    def _scheduled(self) -> dict[str, float]:
        """The learner's numbers that change over a run: lambda of Eq. 4, the noise of deterministic policies."""
        covr, sac = self.config.covr, self.config.sac
        values = {}
        if self.finetune_scheduler:
            kind = "annealed" if self.config.method == "apl" else "constant"
            base = self.config.guidance_weight if self.guided else 0.0
            values["guidance_weight"] = float(guidance.weight(kind, base, self.env_steps, covr.anneal_steps))
        if not self.programs.method.policy.entropy_regularised:
            share = min(self.env_steps / sac.noise_steps, 1.0)
            values["exploration_noise"] = sac.noise_start + share * (sac.noise_end - sac.noise_start)
        return values

    def _log(self, metrics: dict[str, Any]) -> None:
        self.logger.write(
            metrics,
            env_steps=self.env_steps,
            agent_steps=int(self.state.progress.transitions),
            updates=int(self.state.learner.updates),
        )

    # ------------------------------------------------------------------- verbs

    def run(self) -> Result:
        """Train to ``total_steps``, evaluate, record a video, write result.json.

        Raises:
          EnvironmentLost: a world on the host does not come back; a checkpoint has been written.
        """
        try:
            return self._run()
        except EnvironmentLost as lost:
            if lost.state is not None:  # else the chunk's buffers are still these
                self.state = lost.state
            self._save()
            raise
        finally:
            self.programs.close()

    def _run(self) -> Result:
        if self.env_steps == 0:
            self._before()
        while self.env_steps < self.config.total_steps:
            self._chunk()
            before = self.host.rounds
            while self._round_due() and (
                self._round(self.finetune_scheduler) if self.finetune_scheduler else self._mark_elite(self.elite)
            ):
                pass
            if self.env_steps >= self.host.next_eval and self.env_steps < self.config.total_steps:
                self._evaluate()
            if self.env_steps >= self.host.next_checkpoint or self.host.rounds > before:
                self._save()
        self._save()
        return self._finish()

    def _before(self) -> None:
        evaluator = self.programs.evaluator
        values = evaluator.evaluate(evaluator.random_policy(0), self.config.eval.episodes, FINAL_EVALUATION)
        self.host.random_return = float(values.mean())
        row = {"eval/random_return": self.host.random_return}
        if self.vlm:
            self.reporter.message(f"VLM: {self.vlm.model_info.name}, {self.vlm.model_info.parameters}")
        warn_about_schedule(self.config, self.programs, self.rounds, self.reporter)
        if self.finetune_scheduler:
            baseline = self.finetune_scheduler.baseline()
            row |= {"vlm/prior_return": baseline["vlm_return"]} if "vlm_return" in baseline else {}
        self._log(row)

    def _chunk(self) -> None:
        learn = int(self.state.progress.transitions) >= self.config.sac.init_steps
        self.state = self.programs.scheduled(self.state, **self._scheduled())
        with chunk_annotation(int(self.state.progress.vec_steps) // self.programs.chunk_steps):
            self.state, metrics = self.programs.chunk(self.state, learn=learn)
        if self.conversation:
            self.state = self.conversation.step(self.state, ask=self.guided)
        if learn and not self.logged_compile:
            self.logged_compile = True
            self.reporter.message(str(self.compile_log))
        if self.env_steps >= self.host.next_log:
            self._log_training(metrics)

    def _log_training(self, metrics: dict[str, Any]) -> None:
        now, updates = time.monotonic(), int(self.state.learner.updates)
        elapsed = max(now - self.time_since, 1e-9)
        last = np.asarray(self.state.progress.last_return)
        row = {name: float(value) for name, value in metrics.items()}
        row |= {
            "train/episode_return": float(np.nanmean(last)) if np.isfinite(last).any() else math.nan,
            "train/env_steps_per_second": (self.env_steps - self.steps_since) / elapsed,
            "train/updates_per_second": (updates - self.updates_since) / elapsed,
            "replay/size": float(replay.size(self.state.replay)) * self.config.env.num_envs,
            "mem/device_peak_bytes": runtime.peak_memory_bytes(),
        }
        row |= self.compile_log.metrics()
        if self.vlm and self.conversation:
            row |= self.vlm.metrics()
            if self.config.vlm.ask_share < 1:
                row |= {"vlm/asked": self.conversation.asked, "vlm/skipped": self.conversation.skipped}
        if self.finetune_scheduler:
            row["covr/guidance_weight"] = float(self.state.learner.guidance_weight)
        self._log(row)
        self.time_since, self.steps_since, self.updates_since = now, self.env_steps, updates
        self.host.next_log = self.env_steps + self.config.run.log_every
        self.reporter.update(self.env_steps, row | {"covr/round": self.host.rounds})

    def _round_due(self) -> bool:
        return self.host.rounds < len(self.rounds) and self.rounds[self.host.rounds] <= self.env_steps

    def _round(self, finetune_scheduler: FinetuneScheduler) -> bool:
        """Begin or go on with the next round; whether it has ended."""
        number, start = self.host.rounds + 1, self.host.data_start
        finished = self.env_steps >= self.config.total_steps  # no learner is kept waiting any more
        ended = finetune_scheduler.step(self.state, number, self.env_steps, start, self.reporter, wait=finished)
        if ended is None:
            return False
        record, self.host.data_start = ended
        self.host.rounds = number
        names = ("tau", "exploration", "kept_fraction", "weight_mean", "interval", "action_error", "vlm_return")
        row = {f"covr/{name}": record[name] for name in names if record.get(name) is not None}
        if "vlm_return" in record:
            row["vlm/prior_return"] = row.pop("covr/vlm_return")
        if record.get("finetune_loss"):
            row["covr/finetune_loss"] = float(np.mean(record["finetune_loss"][-20:]))
        self._log(row | {"covr/round": number})
        shown = ", ".join(f"{name} {record[name]:.3g}" for name in names if record.get(name) is not None)
        self.reporter.message(f"round {number} at {self.env_steps:,} env steps: {shown}")
        return True

    def _mark_elite(self, selector: DataSelector | None) -> bool:
        """A round without a VLM: what EDDF selects is drawn more often (M10 and M11 of Table 5)."""
        if selector is None:
            return False
        number = self.host.rounds + 1
        kept, record, following = selector.select(self.state, number, self.env_steps, self.host.data_start)
        if not record["samples"]:
            return False
        self.host.rounds, self.host.data_start = number, following
        if len(kept.time):
            self.state = self.programs.mark(self.state, kept.time, kept.env_id)
        names = ("tau", "exploration", "kept_fraction", "interval")
        self._log({f"covr/{name}": record[name] for name in names if name in record} | {"covr/round": self.host.rounds})
        return True

    def _evaluate(self) -> None:
        self.host.evaluations += 1
        values = self._returns(self.host.evaluations)
        measured = self._log_evaluation(values)
        self.host.next_eval = self.env_steps + self.config.eval.every
        shown = "".join(f", {name} {value:.3g}" for name, value in measured.items())
        text = f"evaluation at {self.env_steps:,} env steps: {values.mean():.0f} ± {values.std():.0f}{shown}"
        self.reporter.message(text)

    def _returns(self, number: int) -> np.ndarray:
        """Of the learned policy, f64[episodes], in the ``number``-th evaluation."""
        evaluator = self.programs.evaluator
        return evaluator.evaluate(evaluator.eval_policy(self.state.learner), self.config.eval.episodes, number)

    def _log_evaluation(self, values: np.ndarray, more: dict[str, float] | None = None) -> dict[str, float]:
        """The row of an evaluation that gave these returns; what the environment measured besides them."""
        measured = self.programs.evaluator.episode_metrics()
        row = {"eval/episode_return": values.mean(), "eval/episode_return_std": values.std()}
        self._log(row | {f"eval/{name}": value for name, value in measured.items()} | (more or {}))
        return measured

    def _save(self) -> None:
        self.host.next_checkpoint = self.env_steps + self.config.run.checkpoint_every
        host = asdict(self.host) | {"seconds": self.seconds}
        if self.vlm and self.conversation:
            host["vlm_counters"] = dict(self.vlm.counters)
            host |= {"asked": self.conversation.asked, "skipped": self.conversation.skipped}
        self.logger.flush()
        self.checkpointer.save(self.env_steps, self.state, host, self.vlm.save_adapter if self.vlm else None)

    def _finish(self) -> Result:
        values = self._returns(FINAL_EVALUATION)
        costs = cost_analysis.policy_budget(self.programs, self.state.learner)
        self._log_evaluation(values, costs | (cost_analysis.vlm_budget(self.vlm) if self.vlm else {}))
        self.logger.close()
        self.compile_log.close()
        if self.config.run.video:
            self._record_video()
        return Result(
            final_return=float(values.mean()),
            final_return_std=float(values.std()),
            random_return=self.host.random_return,
            env_steps=self.env_steps,
            seconds=self.seconds,
        )

    def _record_video(self) -> None:
        from covr_jax.training.video import record_episode

        policy = self.programs.evaluator.eval_policy(self.state.learner)
        try:
            record_episode(self.programs, policy, self.run_dir / "videos" / "final.mp4")
        except (EnvironmentLost, OSError) as error:  # the run is over and measured: a film is not worth it
            self.reporter.message(f"no video: {error}")


def _trainer(config: Config, run_dir: Path, reporter: Reporter) -> Any:
    return (VLMTrainer if config.method in VLM_POLICY_METHODS else Trainer)(config, run_dir, reporter)


def train(config: Config, run_dir: Path, reporter: Reporter, command: str = "") -> Result:
    """Train, or go on training, in ``run_dir``; returns the final evaluation.

    Raises:
      ConfigError: options that cannot be used together, or a directory of another run.
      CheckpointError: the run's checkpoint cannot be read or written.
      EnvironmentLost: a world on the host does not come back; a checkpoint has been written.
    """
    validate(config)
    with claim(run_dir):
        check_config(config, run_dir)
        finished = run_dir / "result.json"
        if finished.exists():
            reporter.message(f"{run_dir} holds a finished run; nothing to do")
            values = json.loads(finished.read_text())
            return Result(*(values[name] for name in Result._fields))
        trainer = _trainer(config, run_dir, reporter)
        # Only now: options that turn out to be unusable do not claim the directory.
        if not (run_dir / "config.json").exists():
            write_json(run_dir / "config.json", configuration.to_dict(config), indent=2)
        try:
            result = trainer.run()
        finally:
            if trainer.vlm:
                trainer.vlm.close()
        facts = {"renderer": trainer.programs.pictures, "command": command}
        write_json(finished, result._asdict() | facts)
    return result
