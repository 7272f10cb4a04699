"""Which transitions an update learns from: uniform, prioritised, recent or elite ones.

A transition is named by the time of its first slot and its env id. It must not start at LAST or CUT, must have its
successor stored and, once the ring is full, its whole history. T slots, E envs, B batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from covr_jax.checks import check_shape
from covr_jax.config import ReplayConfig
from covr_jax.replay.state import ReplayState
from covr_jax.types import StepType

_CANDIDATES = 4  # slots drawn per sample, of which the first that starts a transition counts (125 of 126 for cartpole)
ELITE = 2.0  # priority of marked slots; new ones have at most 1 where nothing is prioritised


class SampleIndices(NamedTuple):
    """Indices of B sampled transitions."""

    time: Int[Array, " B"]  # slots written before the transition's first one
    env_id: Int[Array, " B"]
    weight: Float[Array, " B"] | None = None  # importance weight of the critic loss; None: 1


# (state, key, batch size, frames per observation, updates so far i32) -> SampleIndices; the key is consumed
Sampler = Callable[[ReplayState, Array, int, int, Array], SampleIndices]
# (state, key, batch size, first time i32) -> SampleIndices, uniform among the transitions from that time on
_Between = Callable[[ReplayState, Array, int, Array], SampleIndices]


def _oldest(state: ReplayState, frame_stack: int) -> Array:
    """Returns the first time that may be sampled: once the ring is full its oldest slots have lost their history."""
    slots = state.reward.shape[0]
    return jnp.maximum(state.count - slots, 0) + jnp.where(state.count > slots, frame_stack - 1, 0)


def _between(state: ReplayState, key: Array, batch_size: int, oldest: Array) -> SampleIndices:
    """Samples uniformly among the transitions that start at ``oldest`` or later."""
    slots, num_envs = state.reward.shape

    def draw(key: Array, least: Array, end: Array) -> Array:
        return jax.random.randint(key, (_CANDIDATES, batch_size), least, end)

    # As one call for both: the random bits are a large part of what the compiler of an update has to do.
    ends = jnp.array([num_envs, state.count - 1])
    env_ids, times = jax.vmap(draw)(jax.random.split(key), jnp.array([0, oldest]), ends)
    starts = state.step_type[times % slots, env_ids] < StepType.LAST
    chosen = jnp.argmax(starts, axis=0)[None]
    env_id = jnp.take_along_axis(env_ids, chosen, axis=0)[0]
    time = jnp.take_along_axis(times, chosen, axis=0)[0]
    # Where every candidate was an end, a neighbour of the first is none, unless an episode was cut at its beginning.
    before = (time > oldest) & (state.step_type[(time - 1) % slots, env_id] < StepType.LAST)
    return SampleIndices(jnp.where(starts.any(axis=0), time, jnp.where(before, time - 1, time + 1)), env_id)


def _between_gaps(state: ReplayState, key: Array, batch_size: int, oldest: Array) -> SampleIndices:
    """As ``_between``, also where many slots in a row start nothing. Exact for up to 2^24 transitions.

    Where nothing starts at ``oldest`` or later, it samples the latest transitions before.
    """
    anywhere = _mass(state, jnp.zeros_like(oldest), jnp.ones_like(state.reward))
    latest = jnp.max(jnp.where(anywhere > 0, _times(state)[:, None], 0))
    time, env_id, _ = _by_mass(state, key, batch_size, _mass(state, jnp.minimum(oldest, latest), anywhere))
    return SampleIndices(time, env_id)


def uniform(state: ReplayState, key: Array, batch_size: int, frame_stack: int, updates: Array) -> SampleIndices:
    """Samples every transition with the same probability."""
    del updates
    return _between(state, key, batch_size, _oldest(state, frame_stack))


def uniform_between_gaps(
    state: ReplayState, key: Array, batch_size: int, frame_stack: int, updates: Array
) -> SampleIndices:
    """As ``uniform``, from a ring in which many slots in a row may start nothing (``demonstrations``)."""
    del updates
    return _between_gaps(state, key, batch_size, _oldest(state, frame_stack))


def _times(state: ReplayState) -> Array:
    """Returns the time that each slot of the ring holds, i32[T]; -1 where it is empty."""
    slots = state.reward.shape[0]
    newest = state.count - 1
    times = newest - (newest - jnp.arange(slots)) % slots
    return jnp.where(times >= 0, times, -1)


def _mass(state: ReplayState, oldest: Array, value: Array) -> Array:
    """Returns ``value`` f32[T,E] at slots that start a transition at ``oldest`` or later, 0 elsewhere."""
    times = _times(state)
    inside = (times >= oldest) & (times < state.count - 1)
    return jnp.where(inside[:, None] & (state.step_type < StepType.LAST), value, 0.0)


def _by_mass(state: ReplayState, key: Array, batch_size: int, mass: Array) -> tuple[Array, Array, Array]:
    """Samples in proportion to ``mass`` f32[T,E]; returns times, env ids and probabilities, [B] each."""
    num_envs = mass.shape[1]
    below = jnp.cumsum(mass.reshape(-1))
    points = jax.random.uniform(key, (batch_size,)) * below[-1]
    index = jnp.searchsorted(below, points, side="right").clip(max=below.shape[0] - 1)
    # Sums of float32 may rise by rounding where there is no mass; the heaviest transition stands in there.
    index = jnp.where(mass.reshape(-1)[index] > 0, index, jnp.argmax(mass))
    return _times(state)[index // num_envs], index % num_envs, mass.reshape(-1)[index] / below[-1]


def rising(first: float, updates: Array, anneal_updates: int) -> Array | float:
    """Returns the value that rises linearly from ``first`` to 1 over ``anneal_updates``; constant where that is 0."""
    if not anneal_updates:
        return first
    return first + (1.0 - first) * jnp.minimum(updates / anneal_updates, 1.0)


def prioritised(alpha: float, beta: float, anneal_updates: int = 0, floor: float = 0.0) -> Sampler:
    """P(i) ~ p_i^alpha and w_i = (N P(i))^-beta / max_j w_j, p the last |TD error| (Schaul et al. 2016, PER).

    A new transition has the largest priority seen so far. The maximum is over the batch, as is customary. beta rises
    to 1 over ``anneal_updates``. Priorities below ``floor`` count as it; with floor 1 and beta 0 this is LAP (Fujimoto
    et al. 2020), which goes with a Huber loss.
    """

    def sampler(state: ReplayState, key: Array, batch_size: int, frame_stack: int, updates: Array) -> SampleIndices:
        mass = _mass(state, _oldest(state, frame_stack), jnp.maximum(state.priority, floor) ** alpha)
        time, env_id, probability = _by_mass(state, key, batch_size, mass)
        weight = (jnp.count_nonzero(mass) * probability) ** -rising(beta, updates, anneal_updates)
        return SampleIndices(time, env_id, weight / weight.max())

    return sampler


def recent(
    eta: float, least: int, updates_per_phase: int, anneal_updates: int = 0, between: _Between = _between
) -> Sampler:
    """Uniform over the newest c_k = max(N eta^(1000 k / K), least) transitions (Wang and Ross 2019, ERE).

    The k-th of K updates sees fewer and fewer; with one update per step a phase is K updates. eta rises to 1 over
    ``anneal_updates``, as data become better more slowly.
    """

    def sampler(state: ReplayState, key: Array, batch_size: int, frame_stack: int, updates: Array) -> SampleIndices:
        num_envs = state.reward.shape[1]
        oldest = _oldest(state, frame_stack)
        stored = (state.count - 1 - oldest) * num_envs
        k = updates % updates_per_phase + 1
        shrink = rising(eta, updates, anneal_updates)
        kept = jnp.maximum(stored * shrink ** (1000.0 * k / updates_per_phase), least)
        newest = state.count - 1 - jnp.ceil(kept / num_envs).astype(jnp.int32)
        # One slot more than asked for: a sample that meets LAST moves to its neighbour.
        return between(state, key, batch_size, jnp.maximum(oldest, jnp.minimum(newest, state.count - 3)))

    return sampler


def elite(share: float, rest: Sampler = uniform) -> Sampler:
    """``share`` of the batch from marked transitions, the rest uniform; all uniform while none is marked."""

    def sampler(state: ReplayState, key: Array, batch_size: int, frame_stack: int, updates: Array) -> SampleIndices:
        elite_key, rest_key = jax.random.split(key)
        everywhere = rest(state, rest_key, batch_size, frame_stack, updates)
        mass = _mass(state, _oldest(state, frame_stack), (state.priority >= ELITE).astype(jnp.float32))
        time, env_id, _ = _by_mass(state, elite_key, batch_size, mass)
        chosen = (jnp.arange(batch_size) < round(share * batch_size)) & (mass.sum() > 0)
        return SampleIndices(jnp.where(chosen, time, everywhere.time), jnp.where(chosen, env_id, everywhere.env_id))

    return sampler


def set_priorities(state: ReplayState, index: tuple[Array, Array], td_error: Array) -> ReplayState:
    """Sets the priorities of transitions, (time, env id), to their |TD error| f32[B], plus 1e-6.

    Raises:
      ValueError: errors of another shape than the transitions.
    """
    time, env_id = index
    check_shape("td_error", td_error, time.shape)
    value = jnp.abs(td_error) + 1e-6
    slot = time % state.reward.shape[0]
    top = jnp.maximum(state.top_priority, value.max())
    return state.replace(priority=state.priority.at[slot, env_id].set(value), top_priority=top)


def mark_elite(state: ReplayState, time: Array, env_id: Array) -> ReplayState:
    """Marks transitions as elite; those that the ring has overwritten since are left out."""
    slots = state.reward.shape[0]
    slot = jnp.where(time >= state.count - slots, time % slots, slots)
    return state.replace(priority=state.priority.at[slot, env_id].set(ELITE, mode="drop"))


def make_sampler(config: ReplayConfig) -> Sampler:
    """Returns the sampler that the config names; with demonstrations, one that expects their gaps."""
    gaps = config.demonstrations is not None
    if config.sampling == "prioritised":
        anneal_updates = config.anneal_updates or 0
        return prioritised(config.priority_alpha, config.priority_beta, anneal_updates, config.priority_floor)
    if config.sampling == "recent":
        sizes = (config.recent_eta, config.recent_least, config.recent_phase, config.anneal_updates or 0)
        return recent(*sizes, between=_between_gaps if gaps else _between)
    everywhere = uniform_between_gaps if gaps else uniform
    return elite(config.elite_share, everywhere) if config.sampling == "elite" else everywhere
