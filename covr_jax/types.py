"""Records that pass between the rooms.

B batch, E envs, T time, L steps of an episode, H W C image, A action, K steps of a future, G cells.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NamedTuple

Array = Any  # a jax.Array or numpy.ndarray; shapes and dtypes stand beside each field


class EnvironmentLost(RuntimeError):
    """An environment outside of this process is gone and does not come back; the message is one line."""


class HostLost(RuntimeError):
    """Another process that trains the same run is gone; the message is one line."""


class Diverged(RuntimeError):
    """Training has left the finite numbers, and nothing that it computes has a meaning; the message is one line."""


class Preempted(RuntimeError):
    """The process was asked to stop, and the run is where its checkpoint is; the message is one line."""


Stop = Callable[[], str | None]  # says why a run shall stop now, if it shall


def never() -> None:
    """A ``Stop`` that gives no reason."""


class StepType(enum.IntEnum):
    """Position of a time step in its episode, as in ``dm_env``."""

    FIRST = 0
    MID = 1
    LAST = 2
    CUT = 3  # in the replay only: the last known time step of an episode that was broken off; its return is unknown


class TimeStep(NamedTuple):
    """What a vectorised environment returns.

    An environment that returned LAST starts a new episode on the next ``step`` (its action is ignored and FIRST comes
    back), so the true last observation of an episode is never overwritten. ``discount`` is 0 only on a real
    termination: a time limit ends the episode with LAST and discount 1.
    """

    step_type: Array  # i32[E], values of StepType
    reward: Array  # f32[E], sum over the action repeat; 0 on FIRST
    discount: Array  # f32[E], 1, or 0 on termination
    observation: Array  # u8[E,H,W,3*stack] pixels, newest frame in the last 3 channels, or f32[E,N] state


class Episode(NamedTuple):
    """One whole episode of L steps, on the host. Action k leads from observation k to observation k + 1."""

    observation: Array  # u8[L+1,H,W,3*stack], newest frame in the last 3 channels
    action: Array  # f32[L,A] in [-1, 1]
    reward: Array  # f32[L]
    terminated: bool  # whether a termination ended it; False: a time limit


class Prior(NamedTuple):
    """The VLM's action a_v for some observations, and whether it may be used.

    Between VLM and replay ``action`` holds what the method queries: maps, f32[..., G*G], for methods that read them.
    """

    action: Array  # f32[..., A] in [-1, 1]; zeros where not valid
    valid: Array  # bool[...]: False before the gate opens, on a parse failure, or where nothing was queried


class Maps(NamedTuple):
    """Where in the newest frame of some observations the VLM finds what its text names."""

    value: Array  # f32[..., G*G] in [0, 1], row by row; zeros where not valid
    valid: Array  # bool[...]: False where nothing was queried, or nothing stood out


class Future(NamedTuple):
    """What followed the observations of a batch: actions 0 to K-1 steps later, and what they led to, 1 to K later."""

    action: Array  # f32[K,B,A]
    reward: Array  # f32[K,B]
    observation: Array  # u8[K,B,H,W,3*stack]
    valid: Array  # bool[B]: the episode, and what is stored of it, continues for K steps
    discount: Array | None = None  # f32[K,B], 0 only on termination
    reached: Array | None = None  # bool[K,B]: the same of that many steps alone; its last row is ``valid``


class Batch(NamedTuple):
    """Transitions sampled from the replay. The last six fields are None where nothing reads them."""

    observation: Array  # u8[B,H,W,3*stack]
    action: Array  # f32[B,A] in [-1, 1]
    reward: Array  # f32[B]
    discount: Array  # f32[B], 0 only on termination; the learner multiplies by its own gamma
    next_observation: Array  # u8[B,H,W,3*stack]
    prior: Prior  # action f32[B,A], valid bool[B]
    weight: Array | None = None  # f32[B], of the critic loss; None: 1
    index: tuple[Array, Array] | None = None  # i32[B] each, replay time and env id
    previous_action: Array | None = None  # f32[B,A], the action that led to the observation; 0 where it is FIRST
    future: Future | None = None
    maps: Maps | None = None  # value f32[B,G*G], valid bool[B]; no row then has a valid prior
    reward_scale: Array | None = None  # f32[], mean of |reward| over all that the replay holds
