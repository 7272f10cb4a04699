"""How the compiled pieces make up agent steps, cycles and chunks.

One agent step is act -> store -> learn -> step and draw the environments. On accelerators a chunk of K steps is one
compiled program: a scan over cycles, and inside each step a scan over updates. On CPU, where convolutions inside a
scan are an order of magnitude slower, and for environments on the host, the same functions dispatch piece by piece.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from covr_jax.agents import LearnerState
from covr_jax.replay import ReplayState
from covr_jax.training.parts import Parts
from covr_jax.training.pieces import Metrics, Pieces
from covr_jax.training.state import TrainState
from covr_jax.types import EnvironmentLost, StepType


class ChunkResult(NamedTuple):
    """State after a chunk, or after its last whole agent step if an environment on the host was lost."""

    state: TrainState
    metrics: Metrics
    lost: EnvironmentLost | None = None


def update_period(pattern: tuple[bool, ...]) -> int:
    """Length of the shortest prefix whose repetition is the whole pattern; 0 for an empty pattern."""
    lengths = (n for n in range(1, len(pattern) + 1) if len(pattern) % n == 0)
    return next((n for n in lengths if pattern == pattern[:n] * (len(pattern) // n)), 0)


def run_updates(
    pieces: Pieces,
    learner: LearnerState,
    store: ReplayState,
    pattern: tuple[bool, ...],
    *,
    prioritised: bool,
    scan: bool,
) -> tuple[LearnerState, ReplayState, Metrics]:
    """Runs one update per entry of ``pattern``, which says whether the actor is updated too.

    Args:
      pieces: of the run.
      learner: state of the learner; donated.
      store: the replay; donated where it changes.
      pattern: one entry per update.
      prioritised: whether the TD errors of a batch become its priorities.
      scan: compile one period of the pattern and scan over its repetitions, instead of unrolling all updates.

    Returns:
      learner, replay, metrics of the latest update of each kind.
    """

    def some_updates(
        learner: LearnerState, store: ReplayState, part: tuple[bool, ...]
    ) -> tuple[LearnerState, ReplayState, Metrics]:
        metrics: Metrics = {}
        for with_actor in part:
            learner, latest, index, td_error, inputs = pieces.learn_critic(learner, store)
            metrics |= latest
            if with_actor:
                learner, latest = pieces.learn_actor(learner, inputs)
                metrics |= latest
            if prioritised:
                store = pieces.set_priorities(store, index, td_error)
        return learner, store, metrics

    period = update_period(pattern)
    if not scan or len(pattern) == period:
        return some_updates(learner, store, pattern)

    def body(carry: Any, _: None) -> Any:
        learner, changing = carry
        kept = store if changing is None else changing
        learner, kept, metrics = some_updates(learner, kept, pattern[:period])
        return (learner, None if changing is None else kept), metrics

    # An unchanged replay is read from outside of the scan: as a carry it would have to be copied.
    carry = (learner, store if prioritised else None)
    (learner, changed), metrics = jax.lax.scan(body, carry, None, length=len(pattern) // period)
    return learner, store if changed is None else changed, jax.tree.map(lambda x: x[-1], metrics)


def agent_step(
    parts: Parts,
    pieces: Pieces,
    stepper: Any,
    state: TrainState,
    *,
    random: bool,
    actor_pattern: tuple[bool, ...],
    scan: bool,
) -> ChunkResult:
    """One agent step of every environment, with one update per entry of ``actor_pattern``.

    The updates need nothing of the environment step that follows, so on the host the two run side by side.
    """
    vec_steps = state.progress.vec_steps
    if random:
        action = pieces.random_action(vec_steps)
    else:
        previous = pieces.last_action(state.replay, state.timestep) if parts.method.residual else None
        action = pieces.act(state.learner, state.timestep.observation, vec_steps, previous)
    store = pieces.add(state.replay, state.timestep, action)
    prioritised = parts.config.replay.sampling == "prioritised"
    learner, store, metrics = run_updates(
        pieces, state.learner, store, actor_pattern, prioritised=prioritised, scan=scan
    )
    try:
        env, timestep = stepper.step(state.env, action)
    except EnvironmentLost as lost:
        # A resumed run adds this time step once more, before its environments begin new episodes.
        store = pieces.cut(store, np.asarray(state.timestep.step_type) != StepType.LAST)
        return ChunkResult(state.replace(learner=learner, replay=store), metrics, lost)
    progress = pieces.count(state.progress, timestep)
    return ChunkResult(TrainState(learner, store, env, timestep, progress), metrics)


def cycle(
    parts: Parts, pieces: Pieces, stepper: Any, state: TrainState, *, learn: bool, scan: bool = False
) -> ChunkResult:
    """``parts.cycle`` agent steps: with updates, or with random actions alone."""
    sac = parts.config.sac
    metrics: Metrics = {}
    for step in range(parts.cycle):
        first = step // sac.steps_per_update * sac.updates_per_step
        due = learn and step % sac.steps_per_update == 0
        numbers = range(first, first + sac.updates_per_step) if due else range(0)
        pattern = tuple(number % sac.actor_update_every == 0 for number in numbers)
        state, latest, lost = agent_step(
            parts, pieces, stepper, state, random=not learn, actor_pattern=pattern, scan=scan
        )
        metrics |= latest
        if lost is not None:
            return ChunkResult(state, metrics, lost)
    return ChunkResult(state, metrics)


def scanned_chunk(
    parts: Parts, pieces: Pieces, stepper: Any, state: TrainState, cycles: int, learn: bool
) -> tuple[TrainState, Metrics]:
    """``cycles`` cycles as one scan; jit it, and export it for other platforms."""

    def body(carry: TrainState, _: None) -> tuple[TrainState, Metrics]:
        result = cycle(parts, pieces, stepper, carry, learn=learn, scan=True)
        return result.state, result.metrics

    state, metrics = jax.lax.scan(body, state, None, length=cycles)
    return state, jax.tree.map(lambda x: x[-1], metrics)


def dispatched_chunk(
    parts: Parts, pieces: Pieces, stepper: Any, state: TrainState, cycles: int, learn: bool
) -> ChunkResult:
    """``cycles`` cycles, piece by piece; stops where an environment is lost."""
    result = ChunkResult(state, {})
    for _ in range(cycles):
        result = cycle(parts, pieces, stepper, result.state, learn=learn)
        if result.lost is not None:
            break
    return result


def filled_index(time: np.ndarray, start: int, size: int) -> np.ndarray:
    """Positions start, start + 1, ..., i64[size]; beyond the end of ``time`` the last one repeats.

    It pads batches of indices to one size, so that one program is compiled for all of them.
    """
    return np.minimum(np.arange(start, start + size), len(time) - 1)


def power_of_two(number: int) -> int:
    """The least power of two that is not below a number from 1 on: a size of which few occur."""
    return 1 << (number - 1).bit_length()


def to_device_index(time: np.ndarray, env_id: np.ndarray) -> tuple[Array, Array]:
    """Replay times and env ids, i64[N] on the host, as i32[N] on the device."""
    return jnp.asarray(time, jnp.int32), jnp.asarray(env_id, jnp.int32)
