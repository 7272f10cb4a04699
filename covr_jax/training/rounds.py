"""One COVR round: what is selected from D_f is weighted (RALW) and taught to the VLM."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from covr_jax.config import Config
from covr_jax.covr import ablations
from covr_jax.io.run_dir import write_json
from covr_jax.training.programs import Programs
from covr_jax.training.query_selection import seen
from covr_jax.training.selection import DataSelector, Samples, frames_of
from covr_jax.training.state import TrainState
from covr_jax.types import EnvironmentLost
from covr_jax.vlm.serving.protocol import FinetuneBatch, PriorError, PriorService

_GALLERY = 6  # samples per round that the report shows
_HISTOGRAM_BINS = 20


class Reporter(Protocol):
    """What a front end shows; see ``experiments/console.py``."""

    def message(self, text: str) -> None:
        """One line of text."""

    def update(self, env_steps: int, shown: dict[str, float]) -> None:
        """Progress and a row of metrics."""

    def finetune(self, step: int, steps: int, loss: float) -> None:
        """A step of the VLM's fine-tuning."""


def tile_frames(frames: np.ndarray) -> np.ndarray:
    """Frames u8[H,W,3n] side by side, the oldest on the left, u8[H,n*W,3]."""
    return np.concatenate(np.split(frames, frames.shape[-1] // 3, -1), axis=1)


class Round(NamedTuple):
    """A round under way: D_f has been read, and starts later once it is over."""

    number: int
    record: dict[str, Any]  # so far
    start: list[int]  # of D_f, per lane
    following: list[int]  # of the next one
    lesson: FinetuneBatch | None = None  # None: there is nothing to teach
    shown: Samples | None = None  # held-out samples for the report


class FinetuneScheduler:
    """Prepares and ends the rounds of one training run and keeps their records under ``run_dir/vlm``."""

    def __init__(self, config: Config, programs: Programs, vlm: PriorService, run_dir: Path):
        self._config = config
        self._programs = programs
        self._vlm = vlm
        self._selector = DataSelector(config, programs)
        self._directory = run_dir / "vlm"
        self._under_way: Round | None = None

    def baseline(self) -> dict[str, Any]:
        """Round 0: the VLM before any tuning."""
        at_once = self._config.method != "covr" or self._config.cold_start_rounds == 0
        record: dict[str, Any] = {"round": 0, "env_steps": 0, "action_error": None, "guidance": at_once}
        record |= self._vlm_return()
        self._write(0, record)
        return record

    def step(
        self, state: TrainState, number: int, env_steps: int, start: list[int], reporter: Reporter, *, wait: bool
    ) -> tuple[dict[str, Any], list[int]] | None:
        """Begin round ``number``, or go on with it: its record and the start of the next D_f once it has ended.

        Until then, and after a round that failed and will be begun again, the adapter and D_f are those of before. A
        round waits until an episode of its D_f has ended: many environments in step end theirs late.
        """
        if self._under_way is None:
            if not self._vlm.ready:
                return None
            prepared = self.start(state, number, env_steps, start)
            if not prepared.record["samples"]:
                return None
            self._under_way = prepared
            if self._under_way.lesson is not None:
                self._vlm.submit_finetune(self._under_way.lesson)
        taught = None
        if self._under_way.lesson is not None:
            outcome = self._vlm.poll_finetune(reporter.finetune, wait=wait)
            if outcome is None:
                return None
            if outcome.error:
                reporter.message(f"round {number} failed: {outcome.error}")
                self._under_way = None
                return None
            taught = outcome.record
        under_way, self._under_way = self._under_way, None
        return self.complete(under_way, taught)

    def start(self, state: TrainState, number: int, env_steps: int, start: list[int]) -> Round:
        """Round ``number`` (from 1), up to what the VLM has to do; changes nothing.

        With no finished episode, or with equal returns throughout, nothing is to be taught.
        """
        kept, record, following = self._selector.select(state, number, env_steps, start)
        under_way = Round(number, record, start, following)
        return self._with_lesson(under_way, state, kept) if len(kept.time) else under_way

    def complete(self, under_way: Round, taught: dict[str, Any] | None) -> tuple[dict[str, Any], list[int]]:
        """The round's record, and the start of the D_f that follows.

        Args:
          taught: of ``lesson.submit_finetune``; None where there was no lesson. If it was rolled back the adapter is the one of
            before, and D_f stays: the next round learns from it too.
        """
        record = dict(under_way.record)
        if taught is not None:
            record |= {name: value for name, value in taught.items() if name != "answers"}
            self._gallery(under_way, taught["answers"])
            self._complete_baseline(record["action_error_untuned"])
        record |= self._vlm_return()
        self._write(under_way.number, record)
        return record, under_way.start if record.get("rolled_back") else under_way.following

    def _complete_baseline(self, action_error: float | None) -> None:
        """Round 0's action error: before the first lesson there are no kept samples to measure it on."""
        path = self._directory / "round_0" / "record.json"
        record = json.loads(path.read_text()) if path.exists() else {"round": 0, "env_steps": 0}
        if record.get("action_error") is None:
            self._write(0, record | {"action_error": action_error})

    def _with_lesson(self, under_way: Round, state: TrainState, kept: Samples) -> Round:
        """RALW (Eq. 6) on the kept samples but the held-out ones, which measure the action error."""
        options = self._config.vlm
        order = self._selector.generator(under_way.number).permutation(len(kept.time))
        held = min(options.held_out, len(order) // 4)
        held_out, training = kept.take(order[:held]), kept.take(np.sort(order[held:][: options.max_samples]))
        covr, key = self._config.covr, self._selector.key(under_way.number)
        weights = ablations.weights(key, training.scores, kind=covr.weights, norm=covr.weight_norm)
        weights = np.array(weights)  # writable: Torch asks
        counts, edges = np.histogram(weights, bins=_HISTOGRAM_BINS, range=(0.0, 1.0))
        weighting = {
            "weight_mean": float(weights.mean()),
            "weight_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
        }
        shown = held_out.take(np.arange(min(_GALLERY, held)))
        taught, held_frames = (frames_of(state, samples, options.frames) for samples in (training, held_out))
        lesson = FinetuneBatch(taught, training.action, weights, held_frames, held_out.action, len(shown.time))
        return under_way._replace(record=under_way.record | weighting, lesson=lesson, shown=shown)

    def _vlm_return(self) -> dict[str, float]:
        """Mean and deviation of the return with the VLM alone at the controls; empty when not asked for."""
        episodes = self._config.vlm.return_episodes
        if not episodes:
            return {}
        env, frames = self._programs.evaluator.env, self._config.vlm.frames

        def policy(timestep: Any, step: int) -> np.ndarray:
            del step
            action = np.zeros((env.num_envs, env.action_dim), np.float32)
            action[:episodes] = np.asarray(self._vlm.query(seen(timestep.observation[:episodes], frames)).action)
            return action

        try:
            values = self._programs.evaluator.evaluate(policy, episodes, number=0)
        except (PriorError, EnvironmentLost):  # not worth a run; the next step meets a lost world again
            return {}
        return {"vlm_return": float(values.mean()), "vlm_return_std": float(values.std())}

    def _gallery(self, under_way: Round, answers: list[str]) -> None:
        """Frames, prompts, answers and the agent's actions for the report."""
        from PIL import Image

        lesson, shown = under_way.lesson, under_way.shown
        if lesson is None or shown is None:
            return
        directory = self._directory / f"round_{under_way.number}"
        directory.mkdir(parents=True, exist_ok=True)
        rows = []
        frames = np.asarray(lesson.held_frames)[: lesson.shown]
        for index, (frame, answer) in enumerate(zip(frames, answers, strict=True)):
            Image.fromarray(tile_frames(frame)).save(directory / f"sample_{index}.png")
            rows.append(
                {
                    "frame": f"sample_{index}.png",
                    "prompt": self._vlm.model_info.prompt,
                    "answer": answer,
                    "agent_action": shown.action[index].round(3).tolist(),
                    "return": float(shown.returns[index]),
                }
            )
        write_json(directory / "samples.json", rows)

    def _write(self, number: int, record: dict[str, Any]) -> None:
        directory = self._directory / f"round_{number}"
        directory.mkdir(parents=True, exist_ok=True)
        write_json(directory / "record.json", record)


def warn_about_schedule(config: Config, programs: Programs, rounds: Sequence[int], reporter: Reporter) -> None:
    """Say what the run's length, environments and replay will leave of its schedule of rounds (env steps)."""
    env, total = programs.env, config.total_steps
    # Environments in step end their episodes together, and a round needs one that has ended.
    apart = 0 if programs.hosted else env.num_envs * env.episode_length * env.action_repeat
    due = sum(step < total for step in rounds)
    due = min(due, (total - 1) // apart) if apart else due
    if rounds and apart > total:
        reporter.message(
            f"no round will take place: {env.num_envs} environments in step end their first episodes after"
            f" {apart:,} env steps; use fewer --env.num-envs or more --total-steps"
        )
    elif config.method == "covr" and due < config.cold_start_rounds:
        reporter.message(
            f"the VLM will not guide: {due} of the {config.cold_start_rounds} rounds that guidance waits for take place"
            " before the end; use more --total-steps or a smaller --covr.psi-0"
        )
    longest = max((after - before for before, after in pairwise([0, *rounds])), default=0)
    if longest > config.replay.capacity * env.action_repeat:
        reporter.message(
            f"rounds are up to {longest:,} env steps apart, more than --replay.capacity holds: the oldest samples"
            " will have been overwritten"
        )
