"""Fills a ring with episodes that were recorded elsewhere, before its environments begin.

Every env of the ring gets whole episodes, one after the other, as if it had played them. The slots of all envs are
written together, so envs with fewer slots begin with LASTs, at which no transition starts; samplers have to expect
many of them in a row (``sampling.make_sampler``). All envs end with LAST: nothing joins a demonstration and what
follows it. E envs, L steps, H W image, A action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from covr_jax.replay.state import ReplayState
from covr_jax.replay.storage import frame_shape
from covr_jax.types import Episode, StepType, TimeStep


class Plan(NamedTuple):
    """Which episodes go where in a ring."""

    columns: list[list[int]]  # indices of the episodes of each env, oldest first
    padding: list[int]  # slots of each env before its first episode
    slots: int  # time slots that all of it takes
    left_out: int  # older episodes, for which the ring has no room


def distribute(steps: Sequence[int], num_envs: int, slots: int) -> Plan:
    """Distributes episodes over the envs of a ring: the newest first, each to the env with the fewest slots so far.

    Args:
      steps: L of each episode, oldest episode first; it takes L + 1 slots.
      num_envs: E.
      slots: T, time slots of the ring.

    Returns:
      The plan. Where an episode does not fit, it and all older ones are left out.
    """
    columns, used = [[] for _ in range(num_envs)], [0] * num_envs
    left_out = len(steps)
    for index in reversed(range(len(steps))):
        env_id = used.index(min(used))
        if used[env_id] + steps[index] + 1 > slots:
            break
        used[env_id] += steps[index] + 1
        columns[env_id].insert(0, index)
        left_out = index
    return Plan(columns, [max(used) - some for some in used], max(used), left_out)


class _Slot(NamedTuple):
    """One slot of one env."""

    step_type: StepType
    reward: float
    discount: float
    frame: np.ndarray  # u8[H,W,3]
    action: np.ndarray  # f32[A]


def store_episodes(
    state: ReplayState,
    plan: Plan,
    read: Callable[[int], Episode],
    add: Callable[[ReplayState, TimeStep, np.ndarray], ReplayState],
) -> ReplayState:
    """Writes the episodes of a plan into a ring. One episode per env is in the host's memory at a time.

    Args:
      state: an empty ring; donated if ``add`` donates it.
      plan: of ``distribute`` for that ring.
      read: returns an episode by its index; of each observation the newest frame is stored.
      add: ``buffer.add``, compiled.
    """
    image = np.zeros(frame_shape(state.frame.shape[2]), np.uint8)
    nothing = _Slot(StepType.LAST, 0.0, 1.0, image, np.zeros(state.action.shape[2], np.float32))
    columns = [
        _column(indices, padding, read, nothing) for indices, padding in zip(plan.columns, plan.padding, strict=True)
    ]
    for row in zip(*columns, strict=True):
        step_type, reward, discount, frame, action = zip(*row, strict=True)
        timestep = TimeStep(
            step_type=np.array(step_type, np.int32),
            reward=np.array(reward, np.float32),
            discount=np.array(discount, np.float32),
            observation=np.stack(frame),
        )
        state = add(state, timestep, np.stack(action))
    return state


def _column(indices: Sequence[int], padding: int, read: Callable[[int], Episode], nothing: _Slot) -> Iterator[_Slot]:
    """Yields the slots of one env: some that hold nothing, then its episodes."""
    yield from [nothing] * padding
    for index in indices:
        episode = read(index)
        frames = np.ascontiguousarray(episode.observation[..., -3:])
        _, action, reward, terminated = episode
        del episode  # its stacks take several times the memory of the frames
        last = len(reward)
        yield _Slot(StepType.FIRST, 0.0, 1.0, frames[0], action[0])
        for step in range(1, last):
            yield _Slot(StepType.MID, reward[step - 1], 1.0, frames[step], action[step])
        discount = 0.0 if terminated else 1.0
        yield _Slot(StepType.LAST, reward[last - 1], discount, frames[last], nothing.action)
