"""Reads whole episodes out of the ring, to the host. N slots, E envs, L steps, S stack, H W image, A action."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from covr_jax.replay.reading import window
from covr_jax.replay.state import ReplayState
from covr_jax.replay.storage import frame_shape
from covr_jax.types import Episode, StepType


class Stretch(NamedTuple):
    """Where the ring holds a whole episode. A time counts slots since the first one ever written."""

    env_id: int
    first: int  # time of FIRST
    last: int  # time of LAST


class LeftOut(NamedTuple):
    """What a ring holds beside whole episodes: parts of episodes with one transition at least."""

    overwritten: int = 0  # parts whose beginning the ring has overwritten
    broken: int = 0  # episodes that were broken off
    unfinished: int = 0  # episodes whose end has not been stored
    steps: int = 0  # transitions of all of them


def find_episodes(state: ReplayState, start: int = 0) -> tuple[list[Stretch], LeftOut]:
    """Finds the whole episodes of a ring.

    Args:
      state: the ring.
      start: time from which on it is searched.

    Returns:
      The episodes by the time at which they ended, oldest first, and what else is stored.
    """
    step_type = window(state, start).step_type
    oldest = int(state.count) - len(step_type)
    found, parts, steps = [], dict.fromkeys(LeftOut._fields, 0), 0
    for env_id, column in enumerate(step_type.T):
        first = 0
        for last in [*np.flatnonzero(column >= StepType.LAST).tolist(), len(column) - 1]:
            if last > first:  # else no transition of it is stored
                kind = _incomplete(column[first], column[last])
                if kind is None:
                    found.append(Stretch(env_id, oldest + first, oldest + last))
                else:
                    parts[kind] += 1
                    steps += last - first
            first = last + 1
    found.sort(key=lambda stretch: (stretch.last, stretch.env_id))
    return found, LeftOut(**parts | {"steps": steps})


def _incomplete(first: int, last: int) -> str | None:
    """Returns which field of ``LeftOut`` counts a stretch between two step types; None for a whole episode."""
    if first != StepType.FIRST:
        return "overwritten"
    if last == StepType.LAST:
        return None
    return "broken" if last == StepType.CUT else "unfinished"


def read_episodes(state: ReplayState, found: Sequence[Stretch], frame_stack: int) -> Iterator[Episode]:
    """Reads episodes one after the other; their observations are those that the environment gave.

    Args:
      state: the ring.
      found: by ``find_episodes``.
      frame_stack: S, frames of an observation. Before FIRST, its frame repeats.
    """
    arrays = (state.frame, state.action, state.reward, state.discount)
    frame, action, reward, discount = map(np.asarray, arrays)
    slots, _, row = frame.shape
    age = np.arange(frame_stack)[::-1]
    for env_id, first, last in found:
        slot = np.arange(first, last + 1) % slots
        images = frame[slot, env_id].reshape(-1, *frame_shape(row))
        stacked = images[np.maximum(np.arange(len(slot))[:, None] - age, 0)]  # u8[L+1,S,H,W,3]
        yield Episode(
            observation=np.moveaxis(stacked, 1, 3).reshape(*images.shape[:3], -1),
            action=action[slot[:-1], env_id],
            reward=reward[slot[1:], env_id],  # arrived with the slot after the action's
            terminated=bool(discount[slot[-1], env_id] == 0.0),
        )
