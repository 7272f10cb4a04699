"""Records that flow between the rooms. Letters: B batch, E envs, T time, H W C image, A action."""

from __future__ import annotations

import enum
from typing import Any, NamedTuple

Array = Any  # a jax.Array or numpy.ndarray; shapes and dtypes stand beside each field


class EnvironmentLost(RuntimeError):
    """A world outside this process is gone and does not come back; the message is one line."""

    state: Any = None  # what a run carries, from where it broke off: to be saved


class StepType(enum.IntEnum):
    """Position of a time step in its episode, as in ``dm_env``."""

    FIRST = 0
    MID = 1
    LAST = 2
    CUT = 3  # in the replay only: the last one known of an episode that was broken off, whose return is not known


class TimeStep(NamedTuple):
    """What a vectorised environment returns; one lane per environment.

    A lane that returned LAST starts a new episode on the next ``step`` (its action is ignored and a FIRST comes back),
    so the true last observation of an episode is never overwritten. ``discount`` is 0 only on a real termination:
    a time limit ends the episode with LAST and discount 1.
    """

    step_type: Array  # i32[E], values of StepType
    reward: Array  # f32[E], sum over the action repeat; 0 on FIRST
    discount: Array  # f32[E], 1, or 0 on termination
    observation: Array  # u8[E,H,W,3*stack] pixels, newest frame in the last 3 channels, or f32[E,N] state


class Prior(NamedTuple):
    """The VLM's action a_v for some observations, and whether it may be used."""

    action: Array  # f32[..., A] in [-1, 1]; zeros where not valid
    valid: Array  # bool[...]: False before the gate opens, on a parse failure, or where nothing was asked


class Future(NamedTuple):
    """What followed the observations of a batch; 0 to K-1 steps after, and 1 to K for what the steps led to."""

    action: Array  # f32[K,B,A]
    reward: Array  # f32[K,B]
    observation: Array  # u8[K,B,H,W,3*stack]
    valid: Array  # bool[B]: the episode, and what is stored of it, reaches K steps on


class Batch(NamedTuple):
    """Transitions sampled from the replay. The last four fields are there for those who read them."""

    observation: Array  # u8[B,H,W,3*stack]
    action: Array  # f32[B,A] in [-1, 1]
    reward: Array  # f32[B]
    discount: Array  # f32[B], 0 only on termination; the learner multiplies by its own gamma
    next_observation: Array  # u8[B,H,W,3*stack]
    prior: Prior  # action f32[B,A], valid bool[B]
    weight: Array | None = None  # f32[B], of the critic loss; None: 1
    place: tuple[Array, Array] | None = None  # i32[B] each, time and lane in the replay
    previous_action: Array | None = None  # f32[B,A], the action that led to the observation; 0 where it is FIRST
    future: Future | None = None
