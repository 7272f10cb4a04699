"""What a run carries on the device from chunk to chunk. E envs."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from covr_jax.agents import LearnerState
from covr_jax.envs import EnvState, HostState
from covr_jax.io.formats import History
from covr_jax.replay import ReplayState
from covr_jax.replay.storage import frame_shape
from covr_jax.types import StepType, TimeStep


class Progress(flax.struct.PyTreeNode):
    """Counters and running returns of the training environments."""

    vec_steps: Int[Array, ""]  # calls of env.step: agent steps of all environments at once, FIRST included
    transitions: Int[Array, ""]  # time steps that were not FIRST, over all environments
    running_return: Float[Array, " E"]  # of the current episode
    last_return: Float[Array, " E"]  # of the last finished episode; -inf before the first one (no NaN: JAX_DEBUG_NANS)


# How the arrays below differed in checkpoints of earlier formats.
HISTORY = History(
    added={4: (".learner.skipped", ".learner.skipped_in_a_row")},
    reshaped={5: {".replay.frame": lambda shape: (*shape[:2], *frame_shape(shape[2]))}},
)


class EvaluatedState(flax.struct.PyTreeNode):
    """The part of a run's state that an evaluation of its policy needs."""

    learner: LearnerState
    progress: Progress


class ExperienceState(flax.struct.PyTreeNode):
    """The part of a run's state that tells what its environments did."""

    replay: ReplayState
    progress: Progress


class TrainState(flax.struct.PyTreeNode):
    """Everything of a run that lives on the device."""

    learner: LearnerState
    replay: ReplayState
    env: EnvState | HostState
    timestep: TimeStep
    progress: Progress


def initial_progress(num_envs: int) -> Progress:
    """Zero counters for ``num_envs`` environments."""
    return Progress(
        vec_steps=jnp.zeros((), jnp.int32),
        transitions=jnp.zeros((), jnp.int32),
        running_return=jnp.zeros((num_envs,), jnp.float32),
        last_return=jnp.full((num_envs,), -jnp.inf, jnp.float32),
    )


def advance(progress: Progress, timestep: TimeStep) -> Progress:
    """Counts one time step of every environment; the step that starts an episode is no transition."""
    first, last = timestep.step_type == StepType.FIRST, timestep.step_type == StepType.LAST
    running = jnp.where(first, 0.0, progress.running_return + timestep.reward.astype(jnp.float32))
    return Progress(
        vec_steps=progress.vec_steps + 1,
        transitions=progress.transitions + jnp.sum(~first, dtype=jnp.int32),
        running_return=running,
        last_return=jnp.where(last, running, progress.last_return),
    )
