"""Reads the ring's records, but not its frames, to the host. N slots, E envs, A action."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from covr_jax.replay.state import ReplayState


class Window(NamedTuple):
    """Consecutive slots in time order, oldest first, from which D_f is read. All arrays are on the host."""

    slots: np.ndarray  # i64[N], positions in the ring
    step_type: np.ndarray  # i8[N,E]
    reward: np.ndarray  # f32[N,E]
    discount: np.ndarray  # f32[N,E]; 0 at a LAST that is a termination
    action: np.ndarray  # f32[N,E,A]


def window(state: ReplayState, start: int) -> Window:
    """Reads the slots from time ``start`` to the newest, oldest first, to the host.

    Slots that the ring has overwritten since are left out.
    """
    count, slots = int(state.count), state.reward.shape[0]
    kept = np.arange(max(start, count - slots), count) % slots
    return Window(
        slots=kept,
        step_type=np.asarray(state.step_type)[kept],
        reward=np.asarray(state.reward)[kept],
        discount=np.asarray(state.discount)[kept],
        action=np.asarray(state.action)[kept],
    )
