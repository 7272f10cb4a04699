"""Everything about querying the VLM during training: which frames, when, and where its answers are stored.

After every chunk the VLM is queried about frames of the chunk. The *query slots* of a chunk are the frames of every
``vlm.every``-th agent step in all environments, ordered by time and then by environment. ``vlm.ask_share`` of them,
those where the policy is least certain, become queries. Answers come back at once (mode sync) or chunks later, and are
written to the replay next to the frames that they belong to, from where the actor's loss reads them (Eq. 4,
``agents.updates``).

N query slots, K queries of them, E envs, H W image, C = 3 channels for each of ``vlm.frames`` frames, A action.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Shaped, UInt8

from covr_jax import replay
from covr_jax.agents import LearnerState
from covr_jax.replay import ReplayState
from covr_jax.training.parts import Parts
from covr_jax.training.state import TrainState
from covr_jax.types import Prior, StepType
from covr_jax.vlm.serving.protocol import PriorService


class Query(NamedTuple):
    """Frames of one chunk that the VLM is queried about."""

    frames: UInt8[Array, "K H W C"]
    index: Int[Array, " K"]  # which query slots they are, ascending


def vlm_frames(observation: Shaped[Array, "*batch C"], frames: int) -> Shaped[Array, "*batch D"]:
    """Returns the newest ``frames`` frames of stacked observations u8[...,3*stack], oldest first, u8[...,3*frames]."""
    return observation[..., -3 * frames :]


def query_slots(
    end: Int[Array, ""], steps: int, every: int, num_envs: int
) -> tuple[Int[Array, " N"], Int[Array, " N"]]:
    """Replay times and env ids of the query slots among the ``steps`` time slots before ``end``."""
    times = end - steps + jnp.arange(0, steps, every)
    return jnp.repeat(times, num_envs), jnp.tile(jnp.arange(num_envs), len(times))


def num_queries(total: int, share: float) -> int:
    """K: ``share`` of ``total`` query slots, rounded to the nearest integer, and at least 1."""
    return max(1, round(share * total))


def top_k_entropy(entropy: Float[Array, " N"], acts: Bool[Array, " N"], count: int) -> Int[Array, " K"]:
    """Indices of the ``count`` slots of highest policy entropy, ascending; of equal ones the earlier.

    Args:
      entropy: nats.
      acts: False where the action is ignored (LAST); those slots come after all others.
      count: K.
    """
    _, index = jax.lax.top_k(jnp.where(acts, entropy, -jnp.inf), count)
    return jnp.sort(index)


def select_query(parts: Parts, learner: LearnerState, store: ReplayState) -> Query:
    """The query about the newest chunk: all of its query slots, or those where the policy is least certain."""
    vlm, total = parts.config.vlm, parts.num_query_slots
    time, env_id = query_slots(store.count, parts.chunk_steps, vlm.every, parts.env.num_envs)
    index = jnp.arange(total)
    if vlm.ask_share < 1:
        observation = replay.observations(store, time, env_id, parts.frame_stack)
        previous = replay.previous_actions(store, time, env_id) if parts.method.residual else None
        entropy = parts.learner.mean_entropy(learner, observation, previous)
        acts = store.step_type[time % store.reward.shape[0], env_id] < StepType.LAST
        index = top_k_entropy(entropy, acts, num_queries(total, vlm.ask_share))
    return Query(replay.observations(store, time[index], env_id[index], vlm.frames), index)


def scatter_priors(prior: Prior, index: Any, num_envs: int, total: int) -> Prior:
    """Writes answers (action f32[K,A], valid bool[K]) to their query slots, on the host.

    Returns:
      action f32[N/E,E,A], valid bool[N/E,E]; 0 and False where nothing was queried.
    """
    action = np.zeros((total, prior.action.shape[-1]), np.float32)
    valid = np.zeros(total, bool)
    where = np.asarray(index)
    action[where], valid[where] = np.asarray(prior.action), np.asarray(prior.valid)
    return Prior(action.reshape(-1, num_envs, action.shape[-1]), valid.reshape(-1, num_envs))


class QueryManager:
    """Sends the queries of a run and stores the answers.

    Attributes:
      frames_queried: frames that the VLM was queried about.
      frames_skipped: query slots that it was not queried about, because the policy was certain enough.
    """

    def __init__(
        self,
        vlm: PriorService,
        select: Callable[[LearnerState, ReplayState], Query],
        set_prior: Callable[[ReplayState, Prior, np.ndarray], ReplayState],
        *,
        num_slots: int,
        num_envs: int,
        frames_queried: int = 0,
        frames_skipped: int = 0,
        tell: Callable[[str], None] | None = None,
    ):
        """Creates a manager without pending queries.

        Args:
          vlm: answers the queries.
          select: makes the query about a chunk, ``pieces.query``.
          set_prior: stores answers f32[N/E,E,A] before a time, ``pieces.set_prior``.
          num_slots: N, query slots per chunk.
          num_envs: E.
          frames_queried: count of the run so far.
          frames_skipped: count of the run so far.
          tell: is told in one line that the VLM no longer answers, and that it does again; None: nobody.
        """
        self._tell, self._told = tell, False
        self.frames_queried, self.frames_skipped = frames_queried, frames_skipped
        self._vlm, self._select, self._set_prior = vlm, select, set_prior
        self._num_slots, self._num_envs = num_slots, num_envs
        self._pending: dict[int, Any] = {}  # query slots of the queries without an answer, by the time of the query

    def step(self, state: TrainState, *, query: bool) -> TrainState:
        """Sends a query about the newest chunk if told to, and stores every answer that has arrived."""
        now = int(state.replay.count)
        if query:
            frames, index = self._select(state.learner, state.replay)
            if self._vlm.submit(now, frames):
                self._pending[now] = index
                self.frames_queried += len(frames)
                self.frames_skipped += self._num_slots - len(frames)
        answers = self._vlm.poll(now)
        self._tell_fault()
        for query_time, prior, _ in answers:
            prior = scatter_priors(prior, self._pending[query_time], self._num_envs, self._num_slots)
            state = self.store(state, prior, query_time)
        if answers:  # queries before the newest answer have been dropped or lost
            self._pending = {time: index for time, index in self._pending.items() if time > answers[-1].query_step}
        return state

    def _tell_fault(self) -> None:
        if self._tell is not None and bool(fault := self._vlm.fault) != self._told:
            self._told = bool(fault)
            self._tell(f"the VLM does not answer, learning goes on: {fault}" if fault else "the VLM answers again")

    def store(self, state: TrainState, prior: Prior, end: int) -> TrainState:
        """Stores answers (action f32[N/E,E,A], valid bool[N/E,E]) with the chunk that ended at time ``end``."""
        # Through the host: arrays that came over DLPack are pinned to their device, the replay would be pinned too,
        # and every piece that reads it would be compiled once more.
        prior = jax.tree.map(np.asarray, prior)
        return state.replace(replay=self._set_prior(state.replay, prior, np.asarray(end, np.int32)))

    @property
    def pending(self) -> list[int]:
        """Times of the queries whose answers are still to come, ascending."""
        return sorted(self._pending)
