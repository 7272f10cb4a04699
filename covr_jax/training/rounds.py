"""COVR rounds: the samples that EDDF keeps of D_f are weighted (RALW, Eq. 6) and the VLM is fine-tuned on them."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from covr_jax import runtime
from covr_jax.config import Config, required
from covr_jax.covr import ablations, ralw, schedule
from covr_jax.io.files import write_json
from covr_jax.io.reporter import Reporter
from covr_jax.training.estimate import Estimate
from covr_jax.training.expert_states import expert_measure
from covr_jax.training.programs import Programs
from covr_jax.training.queries import vlm_frames
from covr_jax.training.selection import DataSelector, RoundData, Samples, frames_of
from covr_jax.training.state import TrainState
from covr_jax.types import EnvironmentLost, TimeStep
from covr_jax.vlm.serving.protocol import FinetuneBatch, PriorError, PriorService

_GALLERY = 6  # samples per round that the report shows
_HISTOGRAM_BINS = 20
_METRICS = (
    "tau",
    "exploration",
    "kept_fraction",
    "weight_mean",
    "effective_samples",
    "interval",
    "action_error",
    "expert_error",
)


def tile_frames(frames: np.ndarray) -> np.ndarray:
    """Returns the frames u8[H,W,3n] side by side, the oldest on the left, u8[H,n*W,3]."""
    return np.concatenate(np.split(frames, frames.shape[-1] // 3, -1), axis=1)


class Round(NamedTuple):
    """A round that has read D_f and is not complete yet."""

    number: int
    record: dict[str, Any]  # what is known of it so far
    data_start: list[int]  # first time slot of its D_f, per env
    next_data_start: list[int]  # first time slot of the next round's D_f, per env
    batch: FinetuneBatch | None = None  # None: no sample was kept
    gallery: Samples | None = None  # held-out samples that the report shows


class FinetuneScheduler:
    """Starts and completes the rounds of one training run and keeps their records under ``run_dir/vlm``.

    A round counts toward the cold start if it tuned the VLM: it kept samples, and its fine-tuning was not rolled back.
    """

    def __init__(self, config: Config, programs: Programs, vlm: PriorService, run_dir: Path):
        self._config = config
        self._programs = programs
        self._vlm = vlm
        self._selector = DataSelector(config, programs)
        self._directory = run_dir / "vlm"
        self._current: Round | None = None
        self._expert_error = expert_measure(config, programs)
        self.failures = 0  # rounds of this process that failed and were started again

    def baseline(self, reporter: Reporter) -> dict[str, Any]:
        """Writes and returns the record of round 0: the VLM before any fine-tuning."""
        at_once = self._config.method != "covr" or required(self._config.covr.cold_start_rounds) == 0
        record: dict[str, Any] = {"round": 0, "env_steps": 0, "action_error": None, "guidance": at_once}
        record |= self._vlm_return(reporter) | self._expert_error(self._vlm)
        self._write(0, record)
        return record

    def step(
        self, state: TrainState, number: int, data: RoundData, reporter: Reporter, *, tuned: int, wait: bool
    ) -> tuple[dict[str, Any], list[int]] | None:
        """Starts round ``number``, or goes on with it.

        Until the round is complete, and after one that failed and will be started again, the adapter and D_f are those
        of before. A round waits until an episode of its D_f has ended.

        Args:
          state: of the run.
          number: of the round, from 1.
          data: where D_f begins.
          reporter: shows the fine-tuning's progress.
          tuned: earlier rounds that tuned the VLM.
          wait: whether to wait for the fine-tuning however long it takes.

        Returns:
          None while the round is not complete; then its record and the first time slot of the next D_f, per env.
        """
        if self._current is None:
            if not self._vlm.ready:
                return None
            started = self.start(state, number, data)
            if not started.record["samples"]:
                return None
            self._current = started
            if started.batch is not None:
                self._vlm.submit_finetune(started.batch)
        finetuned = None
        if self._current.batch is not None:
            result = self._vlm.poll_finetune(reporter.finetune, wait=wait)
            if result is None:
                return None
            if result.error:
                self.failures += 1
                reporter.message(f"round {number} failed and will be started again: {result.error}")
                self._current = None
                return None
            finetuned = result.record
        current, self._current = self._current, None
        return self.complete(current, finetuned, tuned)

    def start(self, state: TrainState, number: int, data: RoundData) -> Round:
        """Selects and weights the samples of round ``number`` (from 1); changes nothing.

        Without a finished episode, or with equal returns throughout, the round has no batch.
        """
        kept, record, following = self._selector.select(state, number, data)
        current = Round(number, record, data.start, following)
        return self._with_batch(current, state, kept) if len(kept.time) else current

    def complete(
        self, current: Round, finetuned: dict[str, Any] | None, tuned: int
    ) -> tuple[dict[str, Any], list[int]]:
        """Measures the fine-tuned VLM and writes the round's record.

        Args:
          current: the round.
          finetuned: the record of ``run_finetune_round``; None where the round had no batch. After a fine-tuning that
            was rolled back the adapter is the one of before, and D_f stays: the next round learns from it too.
          tuned: earlier rounds that tuned the VLM.

        Returns:
          The record, and the first time slot of the next D_f, per env.
        """
        record = dict(current.record)
        if finetuned is not None:
            record |= {name: value for name, value in finetuned.items() if name != "answers"}
            self._write_gallery(current, finetuned["answers"])
            self._complete_baseline(record["action_error_untuned"])
        record["tuned"] = bool(record.get("finetune_loss")) and not record["rolled_back"]
        record["guidance"] = schedule.gate_open(tuned + record["tuned"], required(self._config.covr.cold_start_rounds))
        record |= self._vlm_return() | self._expert_error(self._vlm)
        self._write(current.number, record)
        return record, current.data_start if record.get("rolled_back") else current.next_data_start

    def _complete_baseline(self, action_error: float | None) -> None:
        """Adds the action error to round 0: before the first batch there are no samples to measure it on."""
        path = self._directory / "round_0" / "record.json"
        record = json.loads(path.read_text()) if path.exists() else {"round": 0, "env_steps": 0}
        if record.get("action_error") is None:
            self._write(0, record | {"action_error": action_error})

    def _with_batch(self, current: Round, state: TrainState, kept: Samples) -> Round:
        """Weights the kept samples by RALW (Eq. 6); a few are held out to measure the action error."""
        options = self._config.vlm
        order = self._selector.generator(current.number).permutation(len(kept.time))
        held = min(options.held_out, len(order) // 4)
        held_out, training = kept.take(order[:held]), kept.take(np.sort(order[held:][: options.max_samples]))
        covr, key = self._config.covr, self._selector.key(current.number)

        def weigh(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
            weights = ablations.weights(key, scores, kind=covr.weights, norm=covr.weight_norm)
            return weights, ralw.effective_sample_size(weights)

        weights, effective = runtime.once(weigh, training.scores)
        weights = np.array(weights)  # Torch asks for a writable array
        counts, edges = np.histogram(weights, bins=_HISTOGRAM_BINS, range=(0.0, 1.0))
        weighting = {
            "weight_mean": float(weights.mean()),
            "effective_samples": float(effective),
            "weight_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }
        gallery = held_out.take(np.arange(min(_GALLERY, held)))
        frames, held_frames = (frames_of(state, samples, options.frames) for samples in (training, held_out))
        batch = FinetuneBatch(frames, training.action, weights, held_frames, held_out.action, len(gallery.time))
        return current._replace(record=current.record | weighting, batch=batch, gallery=gallery)

    def _vlm_return(self, reporter: Reporter | None = None) -> dict[str, float]:
        """Mean and standard deviation of the return when the VLM alone acts; empty when not asked for.

        A reporter is told how long that takes, which on a large model may be hours.
        """
        episodes = self._config.vlm.return_episodes
        if not episodes:
            return {}
        env, frames = self._programs.evaluator.env, self._config.vlm.frames
        estimate = None
        if reporter:
            steps = math.ceil(episodes / env.num_envs) * env.episode_length
            what = "measuring the VLM alone (--vlm.return-episodes), now and after each round"
            estimate = Estimate(what, steps, reporter.message)

        def policy(timestep: TimeStep, step: int) -> np.ndarray:
            del step
            action = np.zeros((env.num_envs, env.action_dim), np.float32)
            queried = vlm_frames(timestep.observation[:episodes], frames)
            action[:episodes] = np.asarray(self._vlm.query(queried).action)
            if estimate:
                estimate.step()
            return action

        try:
            values = self._programs.evaluator.evaluate(policy, episodes, number=0)
        except (PriorError, EnvironmentLost):  # must not end the run; the next step meets a lost environment again
            return {}
        return {"vlm_return": float(values.mean()), "vlm_return_std": float(values.std())}

    def _write_gallery(self, current: Round, answers: list[str]) -> None:
        """Writes frames, prompts, answers and the agent's actions for the report."""
        from PIL import Image

        batch, gallery = current.batch, current.gallery
        if batch is None or gallery is None:
            return
        directory = self._directory / f"round_{current.number}"
        directory.mkdir(parents=True, exist_ok=True)
        rows = []
        frames = np.asarray(batch.heldout_frames)[: batch.shown]
        for index, (frame, answer) in enumerate(zip(frames, answers, strict=True)):
            Image.fromarray(tile_frames(frame)).save(directory / f"sample_{index}.png")
            rows.append(
                {
                    "frame": f"sample_{index}.png",
                    "prompt": self._vlm.model_info.prompt,
                    "answer": answer,
                    "agent_action": gallery.action[index].round(3).tolist(),
                    "return": float(gallery.returns[index]),
                }
            )
        write_json(directory / "samples.json", rows)

    def _write(self, number: int, record: dict[str, Any]) -> None:
        directory = self._directory / f"round_{number}"
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "record.json", record)


def round_metrics(record: dict[str, Any]) -> dict[str, Any]:
    """What of a round's record is logged, by the names of the metrics."""
    row = {f"covr/{name}": record[name] for name in _METRICS if record.get(name) is not None}
    if "vlm_return" in record:
        row["vlm/prior_return"] = record["vlm_return"]
    if record.get("finetune_loss"):
        row["covr/finetune_loss"] = float(np.mean(record["finetune_loss"][-20:]))
    return row


def tell_round(record: dict[str, Any], env_steps: int, reporter: Reporter) -> None:
    """Says that a round is complete, and why it did not tune the VLM, if so."""
    number, names = record["round"], (*_METRICS, "vlm_return")
    shown = ", ".join(f"{name} {record[name]:.3g}" for name in names if record.get(name) is not None)
    reporter.message(f"round {number} at {env_steps:,} env steps: {shown}")
    if error := record.get("push_error"):
        reporter.message(f"round {number}'s adapter is not served yet, the one of before answers: {error}")
    if not record["tuned"]:
        why = "its fine-tuning diverged and was rolled back" if record.get("rolled_back") else "it had nothing to learn"
        reporter.message(f"round {number} did not tune the VLM and does not count toward the cold start: {why}")


def warn_about_schedule(config: Config, programs: Programs, rounds: Sequence[int], reporter: Reporter) -> None:
    """Says what the run's length, environments and replay will leave of its schedule of ``rounds`` (env steps)."""
    env, total = programs.parts.env, config.total_steps
    # Compiled environments end their episodes together, and a round needs one that has ended.
    apart = 0 if programs.parts.hosted else env.num_envs * env.episode_length * env.action_repeat
    due = sum(step < total for step in rounds)
    due = min(due, (total - 1) // apart) if apart else due
    if rounds and apart > total:
        reporter.message(
            f"no round will take place: {env.num_envs} environments in step end their first episodes after"
            f" {apart:,} env steps; use fewer --env.num-envs or more --total-steps"
        )
    elif config.method == "covr" and due < required(config.covr.cold_start_rounds):
        reporter.message(
            f"the VLM will not guide: {due} of the {config.covr.cold_start_rounds} rounds that guidance waits for"
            " take place before the end; use more --total-steps or a smaller --covr.psi-0"
        )
    longest = max((after - before for before, after in pairwise([0, *rounds])), default=0)
    if longest > config.replay.capacity * env.action_repeat:
        reporter.message(
            f"rounds are up to {longest:,} env steps apart, more than --replay.capacity holds: the oldest samples"
            " will have been overwritten"
        )
