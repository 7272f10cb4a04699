"""Repeats the selection of a past round on the replay of a later checkpoint, which holds the same experience.

A round records how many samples it kept and where in their episodes they lie, but not which: those follow from the
replay, the round's place in the run and its recorded ε. N samples, E envs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from covr_jax import replay
from covr_jax.config import Config, ConfigError, required
from covr_jax.training.selection import Samples, filter_scores, finished_samples, round_key
from covr_jax.training.state import ExperienceState
from covr_jax.types import StepType


class PastRound(NamedTuple):
    """D_f of a round, and what its filter made of it."""

    samples: Samples
    compared: Float[np.ndarray, " N"]  # what Eq. 5 compares with tau: z-scores, or the scores as they are
    keep: Bool[np.ndarray, " N"]


def repeat_round(
    config: Config, state: ExperienceState, records: Sequence[dict[str, Any]], own_start: int = 0
) -> PastRound:
    """Repeats the selection of the last of some rounds.

    Args:
      config: of the run, resolved.
      state: of a checkpoint of the run, from after the round.
      records: of the rounds from 1 on, in order.
      own_start: time slot of the run's first step, after its demonstrations.

    Raises:
      ConfigError: the selection depended on networks of that time, or does not come out as the round recorded it, most
        likely because the replay has overwritten a part of D_f.
    """
    covr, record = config.covr, records[-1]
    name = f"round {record['round']}"
    if covr.score == "q_value" or covr.truncation == "bootstrap":
        raise ConfigError(f"{name} scored its samples with the critic of that time, which no checkpoint keeps")
    start, samples = [own_start] * config.env.num_envs, None
    for earlier in records:
        until = _slots_at(state, earlier["env_steps"] // required(config.env.action_repeat))
        samples, following = finished_samples(state, start, covr.return_discount, covr.score, until=until)
        start = start if earlier.get("rolled_back") else following
    assert samples is not None
    if len(samples.time) != record["samples"] or not _close(samples.returns.mean(), record["return_mean"]):
        raise ConfigError(f"{name} read {record['samples']:,} samples that are no longer in the replay")
    key = round_key(config.seed, record["round"])
    keep, compared, _ = filter_scores(covr, key, samples.scores, record["exploration"])
    if int(keep.sum()) != record["kept"]:
        raise ConfigError(f"{name} kept {record['kept']:,} samples, but {int(keep.sum()):,} when it was repeated")
    return PastRound(samples, compared, keep)


def _slots_at(state: ExperienceState, transitions: int) -> int:
    """Time slots that had been written when the environments had made some number of transitions in all."""
    made = (replay.window(state.replay, 0).step_type != StepType.FIRST).sum(axis=1)
    after = int(state.progress.transitions) - np.cumsum(made[::-1])[::-1] + made  # the transitions up to each slot
    first = int(state.replay.count) - len(made)
    return first + int(np.searchsorted(after, transitions)) + 1


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6)
