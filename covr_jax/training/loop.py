"""The loop that trains an agent: chunks on the device, queries and rounds of the VLM in between."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from covr_jax import runtime
from covr_jax.config import GUIDED, Config, required, value_or
from covr_jax.covr import guidance, schedule
from covr_jax.io.reporter import Reporter
from covr_jax.runtime.profiling import CompileLog, chunk_annotation
from covr_jax.training import cost_analysis, demonstrations
from covr_jax.training.divergence import check_parameters, check_updates, tell_broken, tell_skipped
from covr_jax.training.evaluation import Policy
from covr_jax.training.kept_programs import begun_ahead
from covr_jax.training.loop_state import AgentLoopState
from covr_jax.training.programs import Programs
from covr_jax.training.queries import QueryManager
from covr_jax.training.rounds import FinetuneScheduler, round_metrics, tell_round, warn_about_schedule
from covr_jax.training.selection import DataSelector, RoundData
from covr_jax.training.state import EvaluatedState
from covr_jax.training.trainer import Trainer
from covr_jax.types import EnvironmentLost, Stop, never
from covr_jax.vlm.serving.factory import make_vlm


class AgentTrainer(Trainer):
    """One run of an agent, with or without a VLM."""

    loop: AgentLoopState

    def __init__(self, config: Config, run_dir: Path, reporter: Reporter, stop: Stop = never, programs: Any = None):
        self.compile_log = CompileLog()
        programs = programs or Programs(config, begun_ahead(config, reporter.message, stop))
        programs.check_memory()  # before a VLM is loaded
        vlm = make_vlm(config, programs.parts.answer_dim, run_dir)
        super().__init__(config, run_dir, reporter, stop, programs, vlm)
        guide = self.vlm if config.method in GUIDED else None  # maps are neither fine-tuned nor tried as actions
        self.finetune_scheduler = FinetuneScheduler(config, programs, guide, run_dir) if guide else None
        elite = config.replay.sampling == "elite" and not self.vlm
        self.elite_selector = DataSelector(config, programs) if elite else None
        covr, has_rounds = config.covr, config.method == "covr" or elite  # others leave their VLM as it is
        self.rounds = schedule.round_steps(covr.psi_0, config.total_steps, covr.schedule) if has_rounds else []
        resumed = self._init_state()
        self._counts = self.programs.counts(self.state)
        tell_skipped(0, self._counts.skipped, self.env_steps, reporter)
        self.queries = self._make_queries() if self.vlm else None
        self.open_log(resumed=resumed)
        self._logged_compile = False
        self._mark_speed()

    def _init_state(self) -> bool:
        """Makes a fresh state, or restores the newest checkpoint. Returns whether it did that."""
        config, store = self.config, self.config.replay
        size = f"{self.programs.parts.replay_bytes / 1e6:.0f} MB of {store.storage} memory"
        self.reporter.message(f"replay: {size} for {store.capacity:,} transitions")
        if not self.checkpointer.steps():
            state = demonstrations.begin(self.programs, self.reporter)
            start, first = int(state.replay.count), config.run.checkpoint_every
            self.loop = AgentLoopState(data_start=[start] * config.env.num_envs, own_start=start, next_checkpoint=first)
            self.state = state
            return False
        directory = self.restore(lambda: self.programs.init(begin=False), AgentLoopState)
        if self.vlm:
            count, counters = int(self.state.replay.count), self.loop.vlm_counters
            self.restore_adapter(directory, lambda adapter: self.vlm.restore(adapter, counters, count))
        self.reporter.message(f"resuming from {directory}")
        return True

    def _make_queries(self) -> QueryManager:
        parts, pieces = self.programs.parts, self.programs.pieces
        return QueryManager(
            self.vlm,
            pieces.query,
            pieces.set_prior,
            num_slots=parts.num_query_slots,
            num_envs=parts.env.num_envs,
            frames_queried=self.loop.frames_queried,
            frames_skipped=self.loop.frames_skipped,
            tell=self.reporter.message,
        )

    def _read_counts(self) -> None:
        """Reads the device's counters, once per chunk."""
        before, self._counts = self._counts, self.programs.counts(self.state, self._counts.slots)
        tell_skipped(before.skipped, self._counts.skipped, self.env_steps, self.reporter)
        if not self.programs.parts.hosted:
            tell_broken(self.loop.broken_episodes, self._counts.broken, self.env_steps, self.reporter)
        self.loop.broken_episodes += self._counts.broken

    @property
    def agent_steps(self) -> int:
        """Transitions so far, over all environments."""
        return self._counts.transitions

    @property
    def updates(self) -> int:
        """Critic updates so far."""
        return self._counts.updates

    @property
    def queries_vlm(self) -> bool:
        """Whether the VLM is queried now.

        ``covr`` queries it once the cold start is over, ``apl`` while its answers have weight, other methods always.
        """
        if self.config.method == "apl":
            return self.env_steps < self.config.covr.anneal_steps
        if self.vlm is None or self.config.method != "covr":
            return self.vlm is not None
        return schedule.gate_open(self.loop.tuned_rounds or 0, required(self.config.covr.cold_start_rounds))

    def scheduled(self) -> dict[str, float]:
        """The learner's scalars that change over a run: lambda of Eq. 4, the noise of deterministic policies."""
        covr, sac = self.config.covr, self.config.sac
        values = {}
        if self.finetune_scheduler:
            kind = "annealed" if self.config.method == "apl" else "constant"
            base = required(covr.guidance_weight) if self.queries_vlm else 0.0
            values["guidance_weight"] = float(guidance.weight(kind, base, self.env_steps, covr.anneal_steps))
        if not self.programs.parts.method.policy.entropy_regularised:
            share = min(self.agent_steps / sac.noise_steps, 1.0)
            values["exploration_noise"] = sac.noise_start + share * (sac.noise_end - sac.noise_start)
        return values

    def policy(self) -> Policy:
        """The mean action of the actor."""
        return self.programs.evaluator.eval_policy(self.state.learner)

    def evaluated_state(self) -> Any:
        """The learner's."""
        return EvaluatedState(self.state.learner, self.state.progress)

    def adapter_writer(self) -> Any:
        """The VLM's own, where there is one."""
        return self.vlm.save_adapter if self.vlm else None

    def evaluation_metrics(self, *, final: bool) -> dict[str, float]:
        """At the end of a run, what policy and VLM cost."""
        if not final:
            return {}
        costs = cost_analysis.policy_costs(self.programs, self.state.learner)
        return costs | (cost_analysis.vlm_costs(self.vlm) if self.vlm else {})

    def begin(self) -> None:
        """Measures random actions and the untuned VLM, and says what the schedule of rounds will come to."""
        row = self.measure_random()
        if self.vlm:
            self.reporter.message(f"VLM: {self.vlm.model_info.name}, {self.vlm.model_info.parameters}")
        warn_about_schedule(self.config, self.programs, self.rounds, self.reporter)
        if self.finetune_scheduler:
            baseline = self.finetune_scheduler.baseline(self.reporter)
            row |= {"vlm/prior_return": baseline["vlm_return"]} if "vlm_return" in baseline else {}
        self.log(row)

    def iterate(self) -> None:
        """One chunk."""
        self._chunk()

    def do_what_is_due(self) -> bool:
        """The rounds that are due. Returns whether one was completed."""
        before = self.loop.rounds
        while self._round_due() and self._round():
            pass
        return self.loop.rounds > before

    def save(self) -> None:
        """Writes a checkpoint."""
        if self.queries:
            self.loop.frames_queried = self.queries.frames_queried
            self.loop.frames_skipped = self.queries.frames_skipped
        check_parameters(self.state.learner.params)
        super().save()

    def after_training(self) -> None:
        """Writes the last checkpoint."""
        self.save()

    def finish(self) -> None:
        """Records a video of the final policy."""
        self.compile_log.close()
        if not self.config.run.video:
            return
        from covr_jax.training.video import record_episode

        try:
            record_episode(self.programs, self.policy(), self.run_dir / "videos" / "final.mp4")
        except (EnvironmentLost, OSError) as error:  # training is done; a failed video must not fail the run
            self.reporter.message(f"no video: {error}")

    # ------------------------------------------------------------------ chunks

    @property
    def learns(self) -> bool:
        """Whether the next chunk has updates."""
        return self.agent_steps >= self.config.sac.init_steps

    def _chunk(self) -> None:
        learn = self.learns
        if learn and not self.updates:
            self.state = self.programs.catch_up(self.state)
        self.state = self.programs.set_scheduled(self.state, **self.scheduled())
        with chunk_annotation(self._counts.vec_steps // self.programs.parts.chunk_steps):
            self.state, metrics, lost = self.programs.chunk(self.state, learn=learn)
        self.after_chunk(metrics, learn=learn, lost=lost)

    def after_chunk(self, metrics: dict[str, Any], *, learn: bool, lost: EnvironmentLost | None = None) -> None:
        """Counts and checks a chunk, queries the VLM about it, and logs it where that is due."""
        if learn and not self.updates:
            self.loop.policy_start = self._counts.slots
        self._read_counts()
        check_updates(metrics, self.updates, self._counts.skipped_in_a_row)
        if lost is not None:
            raise lost
        if self.queries:
            self.state = self.queries.step(self.state, query=self.queries_vlm)
        if learn and not self._logged_compile:
            self._logged_compile = True
            self.reporter.message(str(self.compile_log))
        if self.env_steps >= self.loop.next_log:
            self._log_training(metrics)

    def _mark_speed(self) -> None:
        """Speeds in the next row count from here."""
        self._speed_from = time.monotonic(), self.env_steps, self.updates

    def _log_training(self, metrics: dict[str, Any]) -> None:
        since, env_steps, updates = self._speed_from
        elapsed = max(time.monotonic() - since, 1e-9)
        returns = self._counts.last_return[np.isfinite(self._counts.last_return)]
        row = {name: float(value) for name, value in metrics.items()}
        row |= {
            "train/episode_return": float(returns.mean()) if len(returns) else math.nan,
            "train/env_steps_per_second": (self.env_steps - env_steps) / elapsed,
            "train/updates_per_second": (self.updates - updates) / elapsed,
            "replay/size": min(self._counts.slots, self.programs.parts.slots) * self.config.env.num_envs,
            "mem/device_peak_bytes": runtime.peak_memory_bytes(),
            "env/broken_episodes": self.loop.broken_episodes,
            "train/skipped_updates": self._counts.skipped,
        }
        row |= self.compile_log.metrics() | self.checkpoint_metrics()
        if self.vlm and self.queries:
            row |= self.vlm.metrics()
            if self.config.vlm.ask_share < 1:
                row |= {"vlm/asked": self.queries.frames_queried, "vlm/skipped": self.queries.frames_skipped}
        if self.finetune_scheduler:
            row["covr/guidance_weight"] = float(self.state.learner.guidance_weight)
            row["covr/failed_rounds"] = self.finetune_scheduler.failures
        self.log(row)
        self._mark_speed()
        self.loop.next_log = self.env_steps + self.config.run.log_every
        self.reporter.update(self.env_steps, row | {"covr/round": self.loop.rounds})

    # ------------------------------------------------------------------ rounds

    def _round_due(self) -> bool:
        return self.loop.rounds < len(self.rounds) and self.rounds[self.loop.rounds] <= self.env_steps

    def _round(self) -> bool:
        """Starts the next round or goes on with it. Returns whether it is complete."""
        if self.finetune_scheduler is None:
            return self._elite_round()
        number = self.loop.rounds + 1
        wait = self.env_steps >= self.config.total_steps  # no learner waits for this one any more
        tuned = self.loop.tuned_rounds or 0
        done = self.finetune_scheduler.step(self.state, number, self._data(), self.reporter, tuned=tuned, wait=wait)
        if done is None:
            return False
        record, self.loop.data_start = done
        self.loop.rounds, self.loop.tuned_rounds = number, tuned + record["tuned"]
        self.log(round_metrics(record) | {"covr/round": number, "covr/tuned_rounds": self.loop.tuned_rounds})
        tell_round(record, self.env_steps, self.reporter)
        return True

    def _data(self) -> RoundData:
        """Where D_f begins. In a run of an earlier version, which did not store it, the policy is taken to act."""
        latest = 0 if self.updates else self._counts.slots
        return RoundData(self.env_steps, self.loop.data_start, value_or(self.loop.policy_start, latest))

    def _elite_round(self) -> bool:
        """A round without a VLM: what EDDF keeps is sampled more often (M10 and M11 of Table 5)."""
        if self.elite_selector is None:
            return False
        number = self.loop.rounds + 1
        kept, record, following = self.elite_selector.select(self.state, number, self._data())
        if not record["samples"]:
            return False
        self.loop.rounds, self.loop.data_start = number, following
        if len(kept.time):
            self.state = self.programs.mark_elite(self.state, kept.time, kept.env_id)
        names = ("tau", "exploration", "kept_fraction", "interval")
        self.log({f"covr/{name}": record[name] for name in names if name in record} | {"covr/round": number})
        return True
