"""Device-resident experience replay: a ring buffer that stores each frame once and stacks frames when it samples.

The ring has T time slots for each of E environments. A slot holds the time step that arrived (frame, reward, discount,
step type) and the action taken from it. A transition is a pair of neighbouring slots of which the first is neither
LAST nor CUT. A *time* counts slots since the first one ever written: slot = time modulo T. All functions are pure;
donate the state when compiling them, or every insert copies the ring. Ours and not a library's, because flashbax
stores every frame S times and knows no priors.

T slots, E envs, B batch, S frame stack, H W image, A action, N numbers of a VLM's answer, K steps of a future.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from covr_jax.checks import check_shape
from covr_jax.config import Storage
from covr_jax.replay.checks import check_counts, check_prior, check_slot, check_stored
from covr_jax.replay.sampling import Sampler, uniform
from covr_jax.replay.state import ReplayState
from covr_jax.replay.storage import init_frames, read_frames, write_frames
from covr_jax.types import Batch, Future, Maps, Prior, StepType, TimeStep


def init(
    slots: int,
    num_envs: int,
    image_size: int,
    action_dim: int,
    storage: Storage = "device",
    answer_dim: int | None = None,
    whole: bool = False,
) -> ReplayState:
    """Returns an empty ring.

    Args:
      slots: T.
      num_envs: E.
      image_size: H = W, pixels.
      action_dim: A.
      storage: ``device``, or ``host`` where the backend has ``pinned_host`` memory.
      answer_dim: N, numbers per answer of the VLM; None: A.
      whole: the ring will not be split over devices, nor be one of several under ``jax.vmap``.

    Raises:
      ValueError: a size below 1.
    """
    check_counts(slots=slots, num_envs=num_envs, image_size=image_size, action_dim=action_dim)
    rows, answer_dim = (slots, num_envs), action_dim if answer_dim is None else answer_dim
    return ReplayState(
        frame=init_frames(slots, num_envs, image_size, storage),
        step_type=jnp.zeros(rows, jnp.int8),
        reward=jnp.zeros(rows, jnp.float32),
        discount=jnp.zeros(rows, jnp.float32),
        action=jnp.zeros((*rows, action_dim), jnp.float32),
        prior=Prior(jnp.zeros((*rows, answer_dim), jnp.float32), jnp.zeros(rows, bool)),
        priority=jnp.ones(rows, jnp.float32),
        top_priority=jnp.ones((), jnp.float32),
        count=jnp.zeros((), jnp.int32),
        whole=whole,
    )


def frames(
    state: ReplayState, time: Int[Array | np.ndarray, "*n"], env_id: Int[Array | np.ndarray, "*n"]
) -> UInt8[Array, "*n H W 3"]:
    """Returns the single frames at replay times and env ids."""
    return read_frames(state.frame, time % state.frame.shape[0], env_id, whole=state.whole)


def add(state: ReplayState, timestep: TimeStep, action: Float[Array | np.ndarray, "E A"]) -> ReplayState:
    """Writes one slot: a time step with its newest frame, u8[E,H,W,3], and the action taken from it.

    Where an episode begins although the one before has not ended, that one was broken off, see ``cut``.

    Raises:
      ValueError: an array of another shape than the ring's, or frames that are no bytes.
    """
    check_slot(state, timestep, action)
    before = state.step_type[(state.count - 1) % state.reward.shape[0]]
    ended = (before == StepType.LAST) | (state.count == 0)
    state = cut(state, (timestep.step_type == StepType.FIRST) & ~ended)
    slot = state.count % state.reward.shape[0]
    return state.replace(
        frame=write_frames(state.frame, slot, timestep.observation[..., -3:]),
        step_type=state.step_type.at[slot].set(timestep.step_type.astype(jnp.int8)),
        reward=state.reward.at[slot].set(timestep.reward.astype(jnp.float32)),
        discount=state.discount.at[slot].set(timestep.discount.astype(jnp.float32)),
        action=state.action.at[slot].set(action.astype(jnp.float32)),
        prior=Prior(state.prior.action.at[slot].set(0.0), state.prior.valid.at[slot].set(False)),
        priority=state.priority.at[slot].set(state.top_priority),
        count=state.count + 1,
    )


def cut(state: ReplayState, broken: Bool[Array | np.ndarray, " E"]) -> ReplayState:
    """Marks the newest slot of the environments whose episode was broken off as CUT.

    What its action led to is unknown, so no transition starts there. The transition before it keeps its discount, as at
    a time limit, and the episode has no return (``covr.returns``).
    """
    check_shape("broken", broken, state.step_type.shape[1:])
    slot = (state.count - 1) % state.reward.shape[0]
    newest = state.step_type[slot]
    return state.replace(step_type=state.step_type.at[slot].set(jnp.where(broken, jnp.int8(StepType.CUT), newest)))


def count_cut(state: ReplayState, start: Int[Array, ""] | int) -> Int[Array, ""]:
    """How many episodes were broken off at the times from ``start`` on, but for the newest slot, as far as stored."""
    slots = state.reward.shape[0]
    age = (state.count - 1 - jnp.arange(slots)) % slots
    window = (state.count - 1 - age >= start) & (age > 0)
    return jnp.sum(window[:, None] & (state.step_type == StepType.CUT), dtype=jnp.int32)


def set_prior(state: ReplayState, prior: Prior, end: Array | None = None, *, every: int, hold: bool) -> ReplayState:
    """Stores the VLM's answers with the slots that they belong to.

    Args:
      state: the ring.
      prior: action f32[Q,E,N], valid bool[Q,E]: answers to the frames of slots 0, every, 2*every, ... of the Q*every
        slots before ``end``. Answers to frames that the ring has overwritten meanwhile are dropped.
      end: a time; None: now.
      every: slots per answer.
      hold: whether the slots between two queries keep the last answer (zero-order hold, but never across an episode's
        end); else they have no prior.

    Raises:
      ValueError: answers of another shape, or ``every`` below 1.
    """
    check_prior(state, prior)
    check_counts(every=every)
    slots, _ = state.reward.shape
    queries = prior.valid.shape[0]
    end = state.count if end is None else end
    times = end - queries * every + jnp.arange(queries * every)
    stored = jnp.repeat(times[::every] >= state.count - slots, every)
    newest = times % slots
    action = jnp.repeat(prior.action, every, axis=0)
    valid = jnp.repeat(prior.valid, every, axis=0)
    offset = jnp.arange(queries * every) % every
    if hold:
        first = state.step_type[newest] == StepType.FIRST
        restarts = jnp.cumsum(first & (offset > 0)[:, None], axis=0)
        at_query = jnp.repeat(restarts[::every], every, axis=0)
        valid &= restarts == at_query
    else:
        valid &= (offset == 0)[:, None]
    action = jnp.where(valid[..., None], action, 0.0)
    target = jnp.where(stored, newest, slots)  # beyond the ring: written nowhere
    return state.replace(
        prior=Prior(
            state.prior.action.at[target].set(action, mode="drop"), state.prior.valid.at[target].set(valid, mode="drop")
        )
    )


def size(state: ReplayState) -> Int[Array, ""]:
    """Returns the number of slots that hold a time step."""
    return jnp.minimum(state.count, state.reward.shape[0])


def sample(
    state: ReplayState,
    key: Array,
    batch_size: int,
    frame_stack: int,
    n_step: int = 1,
    discount: float = 1.0,
    *,
    previous: bool = False,
    horizon: int = 0,
    maps: bool = False,
    sampler: Sampler = uniform,
    updates: Array | int = 0,
) -> Batch:
    """Samples B transitions of which the whole history is stored. The ring must hold ``frame_stack`` + 1 slots.

    Args:
      state: the ring.
      key: one typed PRNG key, consumed.
      batch_size: B.
      frame_stack: S.
      n_step: rewards that a transition sums; fewer where the episode, or what is stored of it, ends before.
      discount: gamma in R = sum_{k<m} gamma^k r_{t+k+1}; the batch's ``discount`` is gamma^(m-1) times those of the m
        steps, so that the target R + gamma * discount * V(s_{t+m}) is the same formula for every m.
      previous: whether the batch holds the actions before.
      horizon: K, steps of its ``future``; 0: no future.
      maps: whether the VLM's answers are maps, for the batch's ``maps``, and not priors.
      sampler: decides which transitions, see ``sampling``.
      updates: updates before this one; read by some samplers.

    Raises:
      ValueError: a size below 1, or, outside of compiled programs, a ring that does not hold enough.
    """
    check_counts(batch_size=batch_size, frame_stack=frame_stack, n_step=n_step)
    check_stored(state, frame_stack)
    indices = sampler(state, key, batch_size, frame_stack, jnp.asarray(updates))
    time, env_id = indices.time, indices.env_id
    slots_now = time % state.reward.shape[0]
    end, reward, remaining = _accumulate(state, time, env_id, n_step, discount)
    # One gather for both: XLA's CPU compiler repeats two of them inside each consumer's loops, at twice the time. One
    # step on, all frames but the newest are those of the observation.
    following = end[None] if n_step == 1 else _history(state, end, env_id, frame_stack)
    times = jnp.concatenate([_history(state, time, env_id, frame_stack), following])
    images = frames(state, times, jnp.broadcast_to(env_id, times.shape))  # u8[stack+1 or 2*stack,B,H,W,3]
    action = state.action[slots_now, env_id]
    answer = Prior(state.prior.action[slots_now, env_id], state.prior.valid[slots_now, env_id])
    return Batch(
        observation=_stack(images[:frame_stack]),
        action=action,
        reward=reward,
        discount=remaining,
        next_observation=_stack(images[-frame_stack:]),
        prior=Prior(jnp.zeros_like(action), jnp.zeros_like(answer.valid)) if maps else answer,
        weight=indices.weight,
        index=(time, env_id),
        previous_action=previous_actions(state, time, env_id) if previous else None,
        future=_future(state, time, env_id, frame_stack, horizon) if horizon else None,
        maps=Maps(*answer) if maps else None,
    )


def previous_actions(
    state: ReplayState, time: Int[Array | np.ndarray, " B"], env_id: Int[Array | np.ndarray, " B"]
) -> Float[Array, "B A"]:
    """Returns the actions that led to stored times; 0 at FIRST and before the oldest stored slot."""
    check_shape("env_id", env_id, time.shape)
    slots = state.reward.shape[0]
    known = (state.step_type[time % slots, env_id] != StepType.FIRST) & (time > jnp.maximum(state.count - slots, 0))
    return jnp.where(known[:, None], state.action[(time - 1) % slots, env_id], 0.0)


def last_action(state: ReplayState, timestep: TimeStep) -> Float[Array, "E A"]:
    """Returns the actions that led to a time step not yet stored; 0 where it is FIRST."""
    newest = state.action[(state.count - 1) % state.reward.shape[0]]
    return jnp.where((timestep.step_type == StepType.FIRST)[:, None], 0.0, newest)


def _future(state: ReplayState, time: Array, env_id: Array, frame_stack: int, horizon: int) -> Future:
    slots, newest = state.reward.shape[0], state.count - 1
    steps = jnp.arange(horizon)[:, None]
    now, after = ((time[None] + steps + shift).clip(max=newest) for shift in (0, 1))
    env_ids = jnp.broadcast_to(env_id[None], now.shape)
    going_on = jnp.cumprod(state.step_type[now % slots, env_ids] < StepType.LAST, axis=0).astype(bool)
    reached = going_on & (time[None] + steps < newest)
    flat = after.reshape(-1), env_ids.reshape(-1)
    stacked = observations(state, *flat, frame_stack)
    return Future(
        action=state.action[now % slots, env_ids],
        reward=state.reward[after % slots, env_ids],
        observation=stacked.reshape(*after.shape, *stacked.shape[1:]),
        valid=reached[-1],
        discount=state.discount[after % slots, env_ids],
        reached=reached,
    )


def _accumulate(
    state: ReplayState, time: Array, env_id: Array, n_step: int, gamma: float
) -> tuple[Array, Array, Array]:
    """Returns the time of the bootstrap i32[B], the discounted sum of rewards until then and the discount, f32[B]."""
    slots = state.reward.shape[0]
    end = time + 1
    reward, discount = state.reward[end % slots, env_id], state.discount[end % slots, env_id]
    for _ in range(n_step - 1):
        onward = (state.step_type[end % slots, env_id] < StepType.LAST) & (end + 1 < state.count)
        end = jnp.where(onward, end + 1, end)
        weight = jnp.where(onward, gamma * discount, 0.0)
        reward += weight * state.reward[end % slots, env_id]
        discount = jnp.where(onward, weight * state.discount[end % slots, env_id], discount)
    return end, reward, discount


def _history(state: ReplayState, time: Array, env_id: Array, frame_stack: int) -> Array:
    """Returns the times i32[S,B] of an observation's frames, oldest first; FIRST, or the oldest slot, repeats."""
    slots = state.reward.shape[0]
    times = [time]
    for _ in range(frame_stack - 1):
        oldest = (state.step_type[times[0] % slots, env_id] == StepType.FIRST) | (times[0] <= state.count - slots)
        times.insert(0, jnp.where(oldest, times[0], times[0] - 1))
    return jnp.stack(times)


def _stack(images: Array) -> Array:
    """u8[S,B,H,W,3] -> u8[B,H,W,3*S]."""
    s, b, h, w, c = images.shape
    return images.transpose(1, 2, 3, 0, 4).reshape(b, h, w, s * c)


def observations(
    state: ReplayState, time: Int[Array | np.ndarray, " B"], env_id: Int[Array | np.ndarray, " B"], frame_stack: int
) -> UInt8[Array, "B H W C"]:
    """Returns the stacked observations at stored times and env ids."""
    check_shape("env_id", env_id, time.shape)
    times = _history(state, jnp.asarray(time), jnp.asarray(env_id), frame_stack)
    return _stack(frames(state, times, jnp.broadcast_to(env_id, times.shape)))
