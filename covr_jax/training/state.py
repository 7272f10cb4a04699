"""What a run carries on the device from chunk to chunk. Letters: E envs."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp

from covr_jax.agents import LearnerState
from covr_jax.envs import EnvState, HostState
from covr_jax.replay import ReplayState
from covr_jax.types import Array, StepType, TimeStep


class Progress(flax.struct.PyTreeNode):
    """Counters and running returns of the training environments."""

    vec_steps: Array  # i32, calls of env.step
    transitions: Array  # i32, time steps that were not FIRST, over all lanes
    running_return: Array  # f32[E], of the episode under way
    last_return: Array  # f32[E], of the last finished episode; NaN before


class TrainState(flax.struct.PyTreeNode):
    """Everything of a run that lives on the device."""

    learner: LearnerState
    replay: ReplayState
    env: EnvState | HostState
    timestep: TimeStep
    progress: Progress


def advance(progress: Progress, timestep: TimeStep) -> Progress:
    """Count one time step of every environment; the step that starts an episode is no transition."""
    first, last = timestep.step_type == StepType.FIRST, timestep.step_type == StepType.LAST
    running = jnp.where(first, 0.0, progress.running_return + timestep.reward.astype(jnp.float32))
    return Progress(
        vec_steps=progress.vec_steps + 1,
        transitions=progress.transitions + jnp.sum(~first, dtype=jnp.int32),
        running_return=running,
        last_return=jnp.where(last, running, progress.last_return),
    )
