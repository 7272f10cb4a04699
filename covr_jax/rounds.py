"""One COVR round: D_f is read out of the replay, filtered (EDDF), weighted (RALW) and taught to the VLM.

D_f is the stretch of the replay since the last round: samples (o, a_r, g) of finished episodes. It costs no memory of
its own and is cleared by moving its start; the running episodes wait for the next round. N samples, E envs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from covr_jax import replay
from covr_jax.config import Config, ConfigError
from covr_jax.covr import eddf, ralw, returns, schedule
from covr_jax.programs import Programs, TrainState
from covr_jax.types import StepType

if TYPE_CHECKING:  # Torch loads only when there is a VLM
    from covr_jax.vlm.service import VLMService

_GALLERY = 6  # samples per round that the report shows
_HISTOGRAM_BINS = 20

Report = Callable[[int, int, float], None]  # (step, steps, loss) of the fine-tuning


def make_vlm(config: Config, programs: Programs) -> VLMService | None:
    """The VLM of a COVR run; None for methods without one.

    Raises:
      ConfigError: a VLM that cannot be loaded, or options that do not fit it.
    """
    if config.method != "covr":
        return None
    from covr_jax.vlm.model import VLMLoadError
    from covr_jax.vlm.service import VLMService

    vlm = config.vlm
    given = {
        "learning_rate": vlm.learning_rate,
        "batch_size": vlm.batch_size,
        "label_smoothing": vlm.label_smoothing,
        "steps": vlm.steps,
    }
    try:
        return VLMService(
            vlm.name,
            config.task,
            programs.env.action_dim,
            seed=config.seed,
            image_size=vlm.image_size,
            rank=vlm.lora_rank,
            alpha=vlm.lora_alpha,
            dropout=vlm.lora_dropout,
            targets=vlm.lora_targets,
            finetune_options={name: value for name, value in given.items() if value is not None},
        )
    except (VLMLoadError, ValueError) as error:
        raise ConfigError(str(error)) from error


class Samples(NamedTuple):
    """D_f, or a selection of it; all on the host."""

    time: np.ndarray  # i64[N], slots written before this one since the run began
    lane: np.ndarray  # i64[N]
    action: np.ndarray  # f32[N,A]
    returns: np.ndarray  # f32[N], return-to-go g_t

    def take(self, index: np.ndarray) -> Samples:
        """The samples at some indices."""
        return Samples(*(values[index] for values in self))


def finished_samples(state: TrainState, start: list[int], discount: float) -> tuple[Samples, list[int]]:
    """D_f and, per lane, where the next one starts.

    Args:
      start: per lane, the first slot (counted since the run began) of the present D_f.
      discount: gamma of the return-to-go.

    Returns:
      Samples of episodes that have ended, and the start of the D_f that follows, [E].
    """
    window = replay.window(state.replay, min(start))
    count = int(state.replay.count)
    times = np.arange(count - len(window.slots), count)
    values, complete = returns.episode_returns(window.reward, window.step_type, discount)
    complete = np.asarray(complete) & (times[:, None] >= np.asarray(start)[None])
    row, lane = np.nonzero(complete)
    samples = Samples(times[row], lane, window.action[row, lane], np.asarray(values)[row, lane])
    return samples, _next_start(window.step_type, times, start)


def _next_start(step_type: np.ndarray, times: np.ndarray, start: list[int]) -> list[int]:
    following = []
    for lane, before in enumerate(start):
        ended = np.nonzero(step_type[:, lane] == StepType.LAST)[0]
        following.append(max(before, int(times[ended[-1]]) + 1) if len(ended) else before)
    return following


def frames_of(state: TrainState, samples: Samples) -> Any:
    """The newest frame of each sample's observation, u8[N,H,W,3] on the device."""
    return replay.frames(state.replay, jnp.asarray(samples.time, jnp.int32), jnp.asarray(samples.lane, jnp.int32))


class Coach:
    """Runs the rounds of one training run and keeps their records under ``run_dir/vlm``."""

    def __init__(self, config: Config, programs: Programs, vlm: VLMService, run_dir: Path):
        self._config = config
        self._programs = programs
        self._vlm = vlm
        self._directory = run_dir / "vlm"

    def baseline(self) -> dict[str, Any]:
        """Round 0: the VLM before any tuning."""
        record: dict[str, Any] = {"round": 0, "env_steps": 0, "action_error": None, **self._vlm_return()}
        self._write(0, record)
        return record

    def round(
        self, state: TrainState, number: int, env_steps: int, start: list[int], report: Report | None = None
    ) -> tuple[dict[str, Any], list[int]]:
        """Round ``number`` (from 1): returns its record and the start of the next D_f.

        With no finished episode, or with equal returns throughout, nothing is taught; D_f is cleared all the same.
        """
        covr = self._config.covr
        samples, following = finished_samples(state, start, covr.return_discount)
        record: dict[str, Any] = {
            "round": number,
            "env_steps": env_steps,
            "samples": len(samples.time),
            "interval": schedule.interval(number - 1, covr.psi_0, covr.schedule),
            "guidance": schedule.gate_open(number, covr.cold_start_rounds),
        }
        if len(samples.time):
            kept, selection = self._select(state, samples, number, env_steps)
            record |= selection
            if len(kept.time):
                record |= self._teach(state, kept, number, report)
                self._complete_baseline(record["action_error_untuned"])
        record |= self._vlm_return()
        self._write(number, record)
        return record, following

    def _complete_baseline(self, action_error: float | None) -> None:
        """Round 0's action error: before the first lesson there are no kept samples to measure it on."""
        path = self._directory / "round_0" / "record.json"
        record = json.loads(path.read_text()) if path.exists() else {"round": 0, "env_steps": 0}
        if record.get("action_error") is None:
            self._write(0, record | {"action_error": action_error})

    def _select(
        self, state: TrainState, samples: Samples, number: int, env_steps: int
    ) -> tuple[Samples, dict[str, Any]]:
        """EDDF (Eq. 5): which samples the VLM learns from."""
        config, covr = self._config, self._config.covr
        generator = self._generator(number)
        asked = np.sort(generator.choice(len(samples.time), min(covr.entropy_samples, len(samples.time)), False))
        entropy = self._programs.entropy(state, samples.time[asked], samples.lane[asked], number)
        exploration = eddf.exploration_degree(
            entropy, samples.action.shape[1], covr.exploration, progress=env_steps / config.total_steps
        )
        keep = np.asarray(eddf.dynamic_filter(samples.returns, exploration, min_keep=covr.min_keep))
        threshold = eddf.adaptive_threshold(eddf.z_score(samples.returns), exploration)
        return samples.take(np.nonzero(keep)[0]), {
            "kept": int(keep.sum()),
            "kept_fraction": float(keep.mean()),
            "entropy": entropy,
            "exploration": float(exploration),
            "tau": float(threshold),
            "return_mean": float(samples.returns.mean()),
        }

    def _teach(self, state: TrainState, kept: Samples, number: int, report: Report | None) -> dict[str, Any]:
        """RALW (Eq. 6) on the kept samples but the held-out ones, which measure the action error."""
        options = self._config.vlm
        order = self._generator(number).permutation(len(kept.time))
        held = min(options.held_out, len(order) // 4)
        held_out, training = kept.take(order[:held]), kept.take(np.sort(order[held:][: options.max_samples]))
        weights = np.array(ralw.loss_weights(training.returns, self._config.covr.weight_norm))  # writable: Torch asks
        held_frames = frames_of(state, held_out)
        before = self._action_error(held_frames, held_out.action)
        with self._vlm.disable_adapter():
            untuned = self._action_error(held_frames, held_out.action)
        losses = self._vlm.finetune(frames_of(state, training), training.action, weights, report)
        counts, edges = np.histogram(weights, bins=_HISTOGRAM_BINS, range=(0.0, 1.0))
        self._gallery(state, held_out, number)
        return {
            "trained": len(training.time),
            "weight_mean": float(weights.mean()),
            "weight_histogram": {"edges": edges.tolist(), "counts": counts.tolist()},
            "finetune_loss": losses["finetune_losses"],
            "finetune_seconds": losses["seconds"],
            "rolled_back": losses["rolled_back"],
            "action_error": self._action_error(held_frames, held_out.action),
            "action_error_before": before,
            "action_error_untuned": untuned,
        }

    def _action_error(self, frames: Any, action: np.ndarray) -> float | None:
        """Mean |a_v - a_r| over samples and dimensions; None without a valid answer."""
        prior = self._vlm.query(frames)
        valid = np.asarray(prior.valid)
        return float(np.abs(np.asarray(prior.action) - action)[valid].mean()) if valid.any() else None

    def _vlm_return(self) -> dict[str, float]:
        """Mean and deviation of the return with the VLM alone at the controls; empty when not asked for."""
        episodes = self._config.vlm.return_episodes
        if not episodes:
            return {}
        env = self._programs.eval_env

        def policy(timestep: Any, step: int) -> np.ndarray:
            del step
            action = np.zeros((env.num_envs, env.action_dim), np.float32)
            action[:episodes] = np.asarray(self._vlm.query(timestep.observation[:episodes, ..., -3:]).action)
            return action

        values = self._programs.evaluate(policy, episodes, number=0)
        return {"vlm_return": float(values.mean()), "vlm_return_std": float(values.std())}

    def _gallery(self, state: TrainState, samples: Samples, number: int) -> None:
        """Frames, prompts, answers and the agent's actions for the report."""
        from PIL import Image

        shown = samples.take(np.arange(min(_GALLERY, len(samples.time))))
        frames = frames_of(state, shown)
        directory = self._directory / f"round_{number}"
        directory.mkdir(parents=True, exist_ok=True)
        rows = []
        for index, (frame, answer) in enumerate(zip(np.asarray(frames), self._vlm.answer(frames), strict=True)):
            Image.fromarray(frame).save(directory / f"sample_{index}.png")
            rows.append(
                {
                    "frame": f"sample_{index}.png",
                    "prompt": self._vlm.prompt.user,
                    "answer": answer,
                    "agent_action": shown.action[index].round(3).tolist(),
                    "return": float(shown.returns[index]),
                }
            )
        (directory / "samples.json").write_text(json.dumps(rows, indent=1))

    def _generator(self, number: int) -> np.random.Generator:
        return np.random.default_rng([self._config.seed, number])

    def _write(self, number: int, record: dict[str, Any]) -> None:
        directory = self._directory / f"round_{number}"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "record.json").write_text(json.dumps(record, indent=1))
