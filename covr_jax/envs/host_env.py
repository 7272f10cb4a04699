"""Environments that run on the host, with the interface of VecEnv. Letters: E envs, H W image, C channels, A action.

Each env is a ``dm_env`` environment stepped by a thread of its own. A thread is enough for an environment that mostly
waits for a server. One that computes runs in a child process (``process_env``), which also has its own memory and whose
crash does not end this process.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

import dm_env
import flax.struct
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8, UInt32

from covr_jax.checks import finite_actions
from covr_jax.types import TimeStep


class HostEnv(Protocol):
    """A ``dm_env.Environment`` with images u8[H,W,3] and actions f32[A] in [-1, 1], which it clips and repeats itself.

    ``step`` may return FIRST in the middle of an episode: the simulator failed, the result of the action is not known,
    and a new episode has begun. An environment that cannot recover raises ``EnvironmentLost``.
    """

    def seed(self, seed: int) -> None:
        """Decides the episode that the next ``reset`` begins."""
        ...

    def reset(self) -> dm_env.TimeStep:
        """Begins an episode."""
        ...

    def step(self, action: Any) -> dm_env.TimeStep:
        """Applies an action for one agent step."""
        ...

    def metrics(self) -> dict[str, float]:
        """Returns what the environment measures besides the return, of the current or last episode."""
        ...

    def close(self) -> None:
        """Frees all resources, processes included."""
        ...


@dataclass(frozen=True)
class HostTask:
    """How to open the env of an index, and the numbers that a run needs before any env is open."""

    name: str
    open: Callable[..., HostEnv]  # (env_id, *, image_size, action_repeat)
    action_dim: int
    action_repeat: int  # simulation steps per agent step
    time_limit: int  # most simulation steps of an episode
    fps: float  # simulation steps per second of simulated time
    learning_rate: float  # actor, critic, encoder
    augmentation: str  # RAD's for the task
    image_source: str  # what renders the images
    guidance_weight: float = 1.0  # lambda of Eq. 4 [COVR]
    cold_start_rounds: int = 4  # rounds before the guidance starts [COVR]
    lora_alpha: int = 16  # scale of the VLM's adapter is alpha / rank [COVR]


class HostState(flax.struct.PyTreeNode):
    """What a checkpoint can hold of simulators whose state it cannot hold: which episode each env was in."""

    key: UInt32[Array | np.ndarray, " 2"]  # root of all episodes
    episode: Int[Array | np.ndarray, " E"]  # i32, number of the current episode; (key, env_id, episode) decides it
    serial: Int[Array | np.ndarray, ""]  # i32, differs between any two states, of any process


class HostVecEnv:
    """A task in ``num_envs`` envs. ``reset`` and ``step`` are as VecEnv's, but act on simulators on the host.

    An env that returned LAST starts a new episode on the next ``step``, whose action for it is ignored. Simulators
    cannot go back: ``step`` from a state that is not their latest one (that of a checkpoint, or one from before an
    evaluation) starts a new episode in every env. So FIRST may come back in the middle of an episode, as it does after
    a fault of a simulator; ``replay.cut`` then ends the old one.

    Args:
      task: the task.
      num_envs: E.
      action_repeat: simulation steps per agent step; None: the task's default.
      image_size: H = W of the images, pixels.
      frame_stack: number of frames in an observation.

    Raises:
      ValueError: on construction, for an option out of range.
      RuntimeError: from ``reset`` and ``step``, in a process forked from the one that made this object.
      EnvironmentLost: from ``reset`` and ``step``, when an environment is lost and cannot recover.
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
        self._process = os.getpid()
        self._envs: list[HostEnv] = []  # opened when first needed
        self._pool = ThreadPoolExecutor(num_envs, thread_name_prefix=task.name)
        self._serial = int.from_bytes(np.random.default_rng().bytes(3))  # differs from that of any other process
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

    def abstract_state(self, key: UInt32[Array | np.ndarray, " 2"]) -> tuple[HostState, TimeStep]:
        """Returns a state and a time step of the right shapes, of no simulator; nothing is opened."""
        state = HostState(np.asarray(key, np.uint32), np.full(self.num_envs, -1, np.int32), np.asarray(-1, np.int32))
        zeros = np.zeros(self.num_envs, np.float32)
        return state, TimeStep(np.zeros(self.num_envs, np.int32), zeros, zeros + 1, np.zeros_like(self._stack))

    def reset(self, key: UInt32[Array | np.ndarray, " 2"]) -> tuple[HostState, TimeStep]:
        """Starts an episode in every env.

        Args:
          key: raw key data, the root of these and of all later episodes.

        Returns:
          The state and the FIRST time step.
        """
        return self._begin(np.asarray(key, np.uint32), np.zeros(self.num_envs, np.int32))

    def step(self, state: HostState, action: Float[Array | np.ndarray, "E A"]) -> tuple[HostState, TimeStep]:
        """Applies actions in [-1, 1] in all envs at the same time.

        Args:
          state: the latest one; any other starts a new episode in every env, which follows its own.
          action: ignored where an episode starts.

        Returns:
          The new state and its time step.

        Raises:
          ValueError: actions of another shape, or that are no finite numbers.
        """
        self._refuse_forked()
        actions = finite_actions(action, (self.num_envs, self.action_dim))
        if int(state.serial) != self._serial or not self._envs:
            return self._begin(np.asarray(state.key, np.uint32), np.asarray(state.episode, np.int32) + 1)
        return self._collect(list(self._pool.map(self._step_env, range(self.num_envs), actions)))

    def finished(self) -> list[list[dict[str, float]]]:
        """Returns for each env the metrics of every episode that ended since all envs last started together."""
        return [list(episodes) for episodes in self._finished]

    def close(self) -> None:
        """Closes every env; ``reset`` and ``step`` open new ones."""
        envs, self._envs = self._envs, []
        for env in envs:
            env.close()

    def _begin(self, key: np.ndarray, episode: np.ndarray) -> tuple[HostState, TimeStep]:
        """Starts an episode in every env, whose numbers are i32[E]."""
        self._refuse_forked()
        env_ids = range(self.num_envs)
        if not self._envs:
            self._envs = list(self._pool.map(self._open, env_ids))
        self._key, self._episode = key, episode
        self._finished = [[] for _ in env_ids]
        self._serial = (self._serial + 1) % 2**31  # if an env fails now, no earlier state is the latest any more
        return self._collect(list(self._pool.map(self._start, env_ids)))

    def _refuse_forked(self) -> None:
        """Raises RuntimeError where the threads that step the envs, and the simulators, are another process's."""
        if os.getpid() != self._process:
            raise RuntimeError(f"{self.task.name} environments were made in another process; make them in this one")

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
        """Batches the envs' time steps; dm_env has no reward and no discount at FIRST."""
        self._ended = np.array([step.last() for step in steps])
        for env_id in np.nonzero(self._ended)[0]:
            self._finished[env_id].append(self._envs[env_id].metrics())
        self._serial = (self._serial + 1) % 2**31
        frame, first = np.stack([step.observation for step in steps]), np.array([step.first() for step in steps])
        self._stack = self._push_frame(self._stack, frame, first)
        timestep = TimeStep(
            step_type=np.array([int(step.step_type) for step in steps], np.int32),
            reward=np.array([step.reward or 0.0 for step in steps], np.float32),
            discount=np.array([1.0 if step.discount is None else step.discount for step in steps], np.float32),
            observation=self._stack,
        )
        return HostState(self._key, self._episode.copy(), np.asarray(self._serial, np.int32)), timestep

    def _push_frame(
        self, stack: UInt8[np.ndarray, "E H W C"], frame: UInt8[np.ndarray, "E H W 3"], first: Bool[np.ndarray, " E"]
    ) -> UInt8[np.ndarray, "E H W C"]:
        """Appends the newest frame to the stacks; at FIRST it is repeated over the whole stack."""
        shifted = np.concatenate([stack[..., 3:], frame], axis=-1)
        return np.where(first[:, None, None, None], np.tile(frame, self.frame_stack), shifted)
