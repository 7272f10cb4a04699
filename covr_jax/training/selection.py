"""D_f is read out of the replay and filtered (EDDF, or a control of its ablation).

D_f is the stretch of the replay since the last round: samples (o, a_r, g) of finished episodes. It costs no memory of
its own and is cleared by moving its start; the running episodes wait for the next round. N samples, E envs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from covr_jax import replay
from covr_jax.config import Config
from covr_jax.covr import ablations, eddf, returns, schedule
from covr_jax.training.programs import Programs
from covr_jax.training.state import TrainState
from covr_jax.types import StepType


class Samples(NamedTuple):
    """D_f, or a selection of it; all on the host."""

    time: np.ndarray  # i64[N], slots written before this one since the run began
    env_id: np.ndarray  # i64[N]
    action: np.ndarray  # f32[N,A]
    returns: np.ndarray  # f32[N], return-to-go g_t
    scores: np.ndarray  # f32[N], what filter and weights go by: the returns, or what an ablation puts in their place

    def take(self, index: np.ndarray) -> Samples:
        """The samples at some indices."""
        return Samples(*(values[index] for values in self))


def finished_samples(
    state: TrainState, start: list[int], discount: float, score: str = "return"
) -> tuple[Samples, list[int]]:
    """D_f and, per lane, where the next one starts.

    Args:
      start: per lane, the first slot (counted since the run began) of the present D_f.
      discount: gamma of the return-to-go.
      score: "return", or "reward": that of the sample's own step.

    Returns:
      Samples of episodes that have ended, and the start of the D_f that follows, [E].
    """
    window = replay.window(state.replay, min(start))
    count = int(state.replay.count)
    times = np.arange(count - len(window.slots), count)
    values, complete = returns.episode_returns(window.reward, window.step_type, discount)
    complete = np.asarray(complete) & (times[:, None] >= np.asarray(start)[None])
    row, env_id = np.nonzero(complete)
    gained = np.asarray(values)[row, env_id]
    scores = window.reward[row + 1, env_id] if score == "reward" else gained  # a reward arrives with the next slot
    samples = Samples(times[row], env_id, window.action[row, env_id], gained, scores)
    return samples, _next_start(window.step_type, times, start)


def _next_start(step_type: np.ndarray, times: np.ndarray, start: list[int]) -> list[int]:
    following = []
    for env_id, before in enumerate(start):
        ended = np.nonzero(step_type[:, env_id] == StepType.LAST)[0]
        following.append(max(before, int(times[ended[-1]]) + 1) if len(ended) else before)
    return following


def frames_of(state: TrainState, samples: Samples, frames: int = 1) -> Any:
    """The newest frames of each sample's observation, the oldest first, u8[N,H,W,3*frames] on the device."""
    place = jnp.asarray(samples.time, jnp.int32), jnp.asarray(samples.env_id, jnp.int32)
    return replay.observations(state.replay, *place, frames)


class Selection(NamedTuple):
    """What a round found."""

    kept: Samples
    record: dict[str, Any]
    following: list[int]  # start of the next D_f, per lane


class DataSelector:
    """Reads and filters D_f for one run."""

    def __init__(self, config: Config, programs: Programs):
        self._config, self._programs = config, programs

    def generator(self, number: int) -> np.random.Generator:
        """The round's own random numbers."""
        return np.random.default_rng([self._config.seed, number])

    def key(self, number: int) -> jax.Array:
        """The round's own JAX key, spent by ablations that draw."""
        return jax.random.key(np.random.SeedSequence([self._config.seed, number]).generate_state(1)[0])

    def select(self, state: TrainState, number: int, env_steps: int, start: list[int]) -> Selection:
        """The samples that round ``number`` (from 1) keeps; none where no episode has ended."""
        covr = self._config.covr
        samples, following = finished_samples(state, start, covr.return_discount, covr.score)
        record: dict[str, Any] = {
            "round": number,
            "env_steps": env_steps,
            "samples": len(samples.time),
            "interval": schedule.interval(number - 1, covr.psi_0, covr.schedule),
            "guidance": schedule.gate_open(number, self._config.cold_start_rounds),
        }
        if not len(samples.time):
            return Selection(samples, record, following)
        if covr.score == "q_value":
            values = self._programs.q_values(state, samples.time, samples.env_id, samples.action)
            samples = samples._replace(scores=values)
        keep, more = self._filter(state, samples, number, env_steps)
        return Selection(samples.take(np.nonzero(keep)[0]), record | more, following)

    def _filter(
        self, state: TrainState, samples: Samples, number: int, env_steps: int
    ) -> tuple[np.ndarray, dict[str, Any]]:
        config, covr = self._config, self._config.covr
        generator = self.generator(number)
        asked = np.sort(generator.choice(len(samples.time), min(covr.entropy_samples, len(samples.time)), False))
        entropy = self._programs.entropy(state, samples.time[asked], samples.env_id[asked], number)
        exploration = eddf.exploration_degree(
            entropy, samples.action.shape[1], covr.exploration, progress=env_steps / config.total_steps
        )
        keep = np.asarray(
            ablations.select(
                self.key(number),
                samples.scores,
                exploration,
                kind=covr.filter,
                min_keep=covr.min_keep,
                z_score=covr.z_score,
                percentile=covr.top_percentile,
            )
        )
        standard = eddf.z_score(samples.scores) if covr.z_score else jnp.asarray(samples.scores)
        return keep, {
            "kept": int(keep.sum()),
            "kept_fraction": float(keep.mean()),
            "entropy": entropy,
            "exploration": float(exploration),
            "tau": float(eddf.adaptive_threshold(standard, exploration)),
            "return_mean": float(samples.returns.mean()),
        }
