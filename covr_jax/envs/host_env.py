"""Environments that run on the host, behind VecEnv's verbs. Letters: E envs, H W image, A action.

Each lane is a ``dm_env`` environment stepped by a thread of its own. Threads serve every kind: one that talks to a
server mostly waits, and one that computes is put into a child process (``process_env``) by its factory, where it also
finds memory and a crash of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import dm_env
import flax.struct
import numpy as np

from covr_jax.types import Array, TimeStep


class HostEnv(Protocol):
    """A ``dm_env.Environment`` with pictures u8[H,W,3] and actions f32[A] in [-1, 1] which it clips and repeats itself.

    ``step`` may answer FIRST in the middle of an episode: the episode was lost, by a fault of the simulator, and what
    the action led to is not known; a new one has begun. An environment for good lost raises ``EnvironmentLost``.
    """

    def seed(self, seed: int) -> None:
        """Decide the episode that the next ``reset`` begins."""
        ...

    def reset(self) -> dm_env.TimeStep:
        """Begin an episode."""
        ...

    def step(self, action: Any) -> dm_env.TimeStep:
        """One agent step."""
        ...

    def metrics(self) -> dict[str, float]:
        """What this world measures besides the return, of the episode under way or just over."""
        ...

    def close(self) -> None:
        """Leave nothing behind."""
        ...


@dataclass(frozen=True)
class HostTask:
    """What a name stands for: how to open lane ``index``, and the numbers that a run needs before it is open."""

    name: str
    open: Callable[..., HostEnv]  # (index, *, image_size, action_repeat)
    action_dim: int
    action_repeat: int  # simulation steps per agent step
    time_limit: int  # simulation steps of an episode at most
    fps: float  # simulation steps per second of the world's time
    learning_rate: float  # actor, critic, encoder
    augmentation: str  # RAD's for the task
    pictures: str  # who draws them


class HostState(flax.struct.PyTreeNode):
    """What a checkpoint can hold of worlds that it cannot: where in its sequence of episodes each lane was."""

    key: Array  # u32[2], root of all episodes
    episode: Array  # i32[E], number of the lane's present episode; (key, lane, episode) decides its start
    serial: Array  # i32, which moment of which process's worlds this is


class HostVecEnv:
    """A task in ``num_envs`` lanes. ``reset`` and ``step`` are as VecEnv's, but act on worlds that live on the host.

    A lane that returned LAST starts anew on the next ``step``, whose action for it is ignored. Worlds cannot go back:
    ``step`` from a state that is not their latest one (that of a checkpoint, or one that an evaluation has left
    behind) starts a new episode in every lane. So a FIRST may come back in the middle of an episode, after a fault of
    a simulator too: ``replay.cut`` then ends the old one.

    Raises:
      EnvironmentLost: from ``reset`` and ``step``, when a world is gone and does not come back.
    """

    def __init__(
        self,
        task: HostTask,
        num_envs: int,
        *,
        action_repeat: int | None = None,
        image_size: int = 84,
        frame_stack: int = 3,
    ):
        if min(num_envs, frame_stack, image_size, action_repeat or 1) < 1:
            raise ValueError("num_envs, frame_stack, image_size and action_repeat must be at least 1")
        self.task, self.num_envs = task, num_envs
        self.frame_stack, self.image_size = frame_stack, image_size
        self.action_repeat = action_repeat or task.action_repeat
        self._envs: list[HostEnv] = []  # opened when first needed
        self._pool = ThreadPoolExecutor(num_envs, thread_name_prefix=task.name)
        self._serial = int.from_bytes(np.random.default_rng().bytes(3))  # unlike that of any other process
        self._key = np.zeros(2, np.uint32)
        self._episode = np.zeros(num_envs, np.int32)
        self._ended = np.ones(num_envs, bool)
        self._stack = np.zeros((num_envs, image_size, image_size, 3 * frame_stack), np.uint8)
        self._finished: list[list[dict[str, float]]] = [[] for _ in range(num_envs)]

    @property
    def action_dim(self) -> int:
        """A, numbers of an action."""
        return self.task.action_dim

    @property
    def episode_length(self) -> int:
        """Agent steps of the longest episode."""
        return -(-self.task.time_limit // self.action_repeat)

    def abstract_state(self, key: Array) -> tuple[HostState, TimeStep]:
        """A state and a time step of the right shapes and of no world: nothing is opened."""
        lanes = self.num_envs
        state = HostState(np.asarray(key, np.uint32), np.full(lanes, -1, np.int32), np.asarray(-1, np.int32))
        zeros = np.zeros(lanes, np.float32)
        return state, TimeStep(np.zeros(lanes, np.int32), zeros, zeros + 1, np.zeros_like(self._stack))

    def reset(self, key: Array) -> tuple[HostState, TimeStep]:
        """Start an episode in every lane. key: u32[2], the root of this and all later ones."""
        return self._begin(np.asarray(key, np.uint32), np.zeros(self.num_envs, np.int32))

    def step(self, state: HostState, action: Array) -> tuple[HostState, TimeStep]:
        """Apply action f32[E,A] in [-1, 1] in every lane at once."""
        if int(state.serial) != self._serial or not self._envs:
            return self._begin(np.asarray(state.key, np.uint32), np.asarray(state.episode, np.int32) + 1)
        lanes, actions = range(self.num_envs), np.asarray(action, np.float32)
        return self._collect(list(self._pool.map(self._step_env, lanes, actions)))

    def finished(self) -> list[list[dict[str, float]]]:
        """Per lane the environment's own metrics of each episode that has ended since all lanes last began anew."""
        return [list(episodes) for episodes in self._finished]

    def close(self) -> None:
        """Close every world; ``reset`` and ``step`` open new ones."""
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()

    # ------------------------------------------------------------------- lanes

    def _begin(self, key: np.ndarray, episode: np.ndarray) -> tuple[HostState, TimeStep]:
        lanes = range(self.num_envs)
        if not self._envs:
            self._envs = list(self._pool.map(self._open, lanes))
        self._key, self._episode = key, episode
        self._finished = [[] for _ in lanes]
        self._serial = (self._serial + 1) % 2**31  # should a lane fail now, no earlier state is the latest any more
        return self._collect(list(self._pool.map(self._start, lanes)))

    def _open(self, env_id: int) -> HostEnv:
        return self.task.open(env_id, image_size=self.image_size, action_repeat=self.action_repeat)

    def _start(self, env_id: int) -> dm_env.TimeStep:
        entropy = [*self._key.tolist(), env_id, int(self._episode[env_id])]
        self._envs[env_id].seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        return self._envs[env_id].reset()

    def _step_env(self, env_id: int, action: np.ndarray) -> dm_env.TimeStep:
        if self._ended[env_id]:
            self._episode[env_id] += 1
            return self._start(env_id)
        return self._envs[env_id].step(action)

    def _collect(self, steps: list[dm_env.TimeStep]) -> tuple[HostState, TimeStep]:
        """The lanes' time steps as one; dm_env has no reward and no discount at FIRST."""
        self._ended = np.array([step.last() for step in steps])
        for env_id in np.nonzero(self._ended)[0]:
            self._finished[env_id].append(self._envs[env_id].metrics())
        self._serial = (self._serial + 1) % 2**31
        frames = np.stack([step.observation for step in steps])
        first = np.array([step.first() for step in steps])
        shifted = np.concatenate([self._stack[..., 3:], frames], axis=-1)
        self._stack = np.where(first[:, None, None, None], np.tile(frames, self.frame_stack), shifted)
        timestep = TimeStep(
            step_type=np.array([int(step.step_type) for step in steps], np.int32),
            reward=np.array([step.reward or 0.0 for step in steps], np.float32),
            discount=np.array([1.0 if step.discount is None else step.discount for step in steps], np.float32),
            observation=self._stack,
        )
        return HostState(self._key, self._episode.copy(), np.asarray(self._serial, np.int32)), timestep
