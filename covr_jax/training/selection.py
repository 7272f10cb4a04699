"""Reads D_f, the samples of a round, out of the replay and filters them (EDDF, or a control of its ablation).

D_f is the part of the replay since the last round: samples (o, a_r, g) of finished episodes. It takes no memory of its
own and is cleared by moving its start; unfinished episodes belong to the next round. N samples, E envs, A action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Bool, Float, Int

from covr_jax import replay, runtime
from covr_jax.config import Config, CovrConfig
from covr_jax.covr import ablations, eddf, returns, schedule
from covr_jax.training.chunk import to_device_index
from covr_jax.training.programs import Programs
from covr_jax.training.state import ExperienceState, TrainState
from covr_jax.types import Diverged, StepType

_STEP_BINS = 10


class Samples(NamedTuple):
    """D_f, or a selection of it; all on the host."""

    time: Int[np.ndarray, " N"]  # absolute replay time: time slots since the run began
    env_id: Int[np.ndarray, " N"]
    step: Int[np.ndarray, " N"]  # agent steps since the episode began
    action: Float[np.ndarray, "N A"]
    returns: Float[np.ndarray, " N"]  # return-to-go g_t
    scores: Float[np.ndarray, " N"]  # what is filtered and weighted: the returns, or an ablation's replacement

    def take(self, index: np.ndarray) -> Samples:
        """The samples at some indices."""
        return Samples(*(values[index] for values in self))


def finished_samples(
    state: TrainState | ExperienceState,
    start: list[int],
    discount: float,
    score: str = "return",
    value_of: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    until: int | None = None,
) -> tuple[Samples, list[int]]:
    """Reads D_f.

    Args:
      state: of the run.
      start: first time slot (counted since the run began) of D_f, per env.
      discount: gamma of the return-to-go.
      score: "return", or "reward": that of the sample's own step.
      value_of: V f32[N] of stored observations (time, env id), with which the return-to-go goes on at a time limit;
        None: it ends there.
      until: time slot before which D_f is read, as it was then; None: the present.

    Returns:
      samples of the episodes that have ended, and the first time slot of the next D_f, per env.
    """
    window = replay.window(state.replay, min(start))
    count = int(state.replay.count)
    times = np.arange(count - len(window.slots), count)
    if until is not None:
        earlier = times < until
        window, times = replay.Window(*(values[earlier] for values in window)), times[earlier]
    last_value = None
    if value_of is not None:
        row, env_id = np.nonzero((window.step_type == StepType.LAST) & (window.discount > 0))
        last_value = np.zeros(window.reward.shape, np.float32)
        last_value[row, env_id] = value_of(times[row], env_id)
    values, complete = runtime.once(
        lambda reward, step_type, value: returns.episode_returns(reward, step_type, discount, last_value=value),
        window.reward,
        window.step_type,
        last_value,
    )
    complete = np.asarray(complete) & (times[:, None] >= np.asarray(start)[None])
    row, env_id = np.nonzero(complete)
    gained = np.asarray(values)[row, env_id]
    scores = window.reward[row + 1, env_id] if score == "reward" else gained  # a reward arrives with the next slot
    step = _steps_in_episode(window.step_type)[row, env_id]
    samples = Samples(times[row], env_id, step, window.action[row, env_id], gained, scores)
    return samples, _next_start(window.step_type, times, start)


def _steps_in_episode(step_type: np.ndarray) -> np.ndarray:
    """Slots since the episode's FIRST, i64[T,E], or since the window began where that is not in it."""
    slot = np.arange(len(step_type))[:, None]
    return slot - np.maximum.accumulate(np.where(step_type == StepType.FIRST, slot, 0), axis=0)


def _next_start(step_type: np.ndarray, times: np.ndarray, start: list[int]) -> list[int]:
    following = []
    for env_id, before in enumerate(start):
        ended = np.nonzero(step_type[:, env_id] == StepType.LAST)[0]
        following.append(max(before, int(times[ended[-1]]) + 1) if len(ended) else before)
    return following


def frames_of(state: TrainState | ExperienceState, samples: Samples, frames: int = 1) -> Any:
    """Returns the newest frames of each sample's observation, oldest first, u8[N,H,W,3*frames] on the device."""
    index = to_device_index(samples.time, samples.env_id)
    return runtime.once(partial(replay.observations, frame_stack=frames), state.replay, *index)


def _histogram(step: np.ndarray, keep: np.ndarray) -> dict[str, list[int]]:
    """Where in their episodes the samples of D_f and those that are kept lie: edges in agent steps, and counts."""
    edges = np.unique(np.linspace(0, step.max() + 1, _STEP_BINS + 1).round().astype(int))
    kept, everyone = (np.histogram(some, edges)[0].tolist() for some in (step[keep], step))
    return {"edges": edges.tolist(), "counts": kept, "all": everyone}


class RoundData(NamedTuple):
    """Where D_f of a round begins."""

    env_steps: int  # of the run so far
    start: list[int]  # first time slot of D_f, per env
    policy_start: int  # time slot of the policy's first action; actions before it are uniform in [-1, 1]


class Selection(NamedTuple):
    """What a round found."""

    kept: Samples
    record: dict[str, Any]
    following: list[int]  # first time slot of the next D_f, per env


def round_key(seed: int, number: int) -> jax.Array:
    """A JAX key of round ``number``'s own, consumed by ablations that sample; ``seed`` is the run's."""
    return jax.random.key(np.random.SeedSequence([seed, number]).generate_state(1)[0])


class Filtered(NamedTuple):
    """What the filter makes of N scores."""

    keep: Bool[np.ndarray, " N"]
    compared: Float[np.ndarray, " N"]  # with tau: z-scores, or the scores as they are
    tau: float  # of Eq. 5


def filter_scores(covr: CovrConfig, key: jax.Array, scores: np.ndarray, exploration: ArrayLike) -> Filtered:
    """Filters f32[N] scores by EDDF, or a control of its ablation, at an exploration degree eps."""

    def filtered(key: jax.Array, scores: jax.Array, exploration: jax.Array) -> tuple[jax.Array, ...]:
        keep = ablations.select(
            key,
            scores,
            exploration,
            kind=covr.filter,
            min_keep=covr.min_keep,
            z_score=covr.z_score,
            percentile=covr.top_percentile,
        )
        compared = eddf.z_score(scores) if covr.z_score else scores
        return keep, compared, eddf.adaptive_threshold(compared, exploration)

    keep, compared, tau = runtime.once(filtered, key, scores, exploration)
    return Filtered(np.asarray(keep), np.asarray(compared), float(tau))


class DataSelector:
    """Reads and filters D_f for one run."""

    def __init__(self, config: Config, programs: Programs):
        self._config, self._programs = config, programs

    def generator(self, number: int) -> np.random.Generator:
        """A generator of round ``number``'s own."""
        return np.random.default_rng([self._config.seed, number])

    def key(self, number: int) -> jax.Array:
        """As ``round_key``."""
        return round_key(self._config.seed, number)

    def select(self, state: TrainState, number: int, data: RoundData) -> Selection:
        """Selects the samples that round ``number`` (from 1) keeps; none where no episode has ended.

        Raises:
          Diverged: a score, or the policy's entropy, is not finite.
        """
        covr = self._config.covr
        bootstrap = partial(self._programs.state_values, state) if covr.truncation == "bootstrap" else None
        samples, following = finished_samples(state, data.start, covr.return_discount, covr.score, bootstrap)
        record: dict[str, Any] = {
            "round": number,
            "env_steps": data.env_steps,
            "samples": len(samples.time),
            "interval": schedule.interval(number - 1, covr.psi_0, covr.schedule),
        }
        if not len(samples.time):
            return Selection(samples, record, following)
        if covr.score == "q_value":
            values = self._programs.q_values(state, samples.time, samples.env_id, samples.action)
            samples = samples._replace(scores=values)
        keep, more = self._filter(state, samples, number, data)
        return Selection(samples.take(np.nonzero(keep)[0]), record | more, following)

    def acting_entropy(self, state: TrainState, samples: Samples, number: int, policy_start: int) -> float:
        """H in nats of what acted in the samples: the policy (as it is now), or before it the uniform distribution."""
        uniform = samples.action.shape[1] * math.log(2.0)
        estimates = self._programs.entropy(state, samples.time, samples.env_id, number)
        return float(np.where(samples.time < policy_start, uniform, estimates).mean())

    def _filter(
        self, state: TrainState, samples: Samples, number: int, data: RoundData
    ) -> tuple[np.ndarray, dict[str, Any]]:
        config, covr = self._config, self._config.covr
        generator = self.generator(number)
        chosen = np.sort(generator.choice(len(samples.time), min(covr.entropy_samples, len(samples.time)), False))
        entropy = self.acting_entropy(state, samples.take(chosen), number, data.policy_start)
        if not (math.isfinite(entropy) and np.isfinite(samples.scores).all()):
            raise Diverged("the entropy or a score of a round's samples is not finite")
        exploration = eddf.exploration_degree(
            entropy, samples.action.shape[1], covr.exploration, progress=data.env_steps / config.total_steps
        )
        keep, _, tau = filter_scores(covr, self.key(number), samples.scores, exploration)
        return keep, {
            "kept": int(keep.sum()),
            "kept_steps": _histogram(samples.step, keep),
            "kept_fraction": float(keep.mean()),
            "entropy": entropy,
            "exploration": float(exploration),
            "tau": tau,
            "return_mean": float(samples.returns.mean()),
        }
