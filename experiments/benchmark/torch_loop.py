"""Pixel RAD as one writes it with dm_control and PyTorch: one world, one transition at a time, a replay on the host.

Letters: B batch, N capacity, H W image, C = 3 times the stack.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple, Protocol

import numpy as np
import torch

from covr_jax.config import Config
from experiments.benchmark.torch_rad import TorchBatch, TorchRAD


class Step(NamedTuple):
    """What an action led to; ``frame`` u8[H,W,3]."""

    frame: np.ndarray
    reward: float
    discount: float
    last: bool


class World(Protocol):
    """One environment that draws itself."""

    action_dim: int

    def reset(self) -> np.ndarray: ...

    def step(self, action: np.ndarray) -> Step: ...


class SuiteWorld:
    """dm_control's own environment and picture; ``MUJOCO_GL`` decides which OpenGL draws."""

    def __init__(self, task: str, action_repeat: int, image_size: int):
        from dm_control import suite

        self.env = suite.load(*task.rsplit("_", 1), task_kwargs={"random": 0})
        self.action_repeat, self.image_size = action_repeat, image_size
        self.action_dim = self.env.action_spec().shape[0]

    def reset(self) -> np.ndarray:
        self.env.reset()
        return self._frame()

    def step(self, action: np.ndarray) -> Step:
        reward = 0.0
        for _ in range(self.action_repeat):
            timestep = self.env.step(action)
            reward += timestep.reward
            if timestep.last():
                break
        return Step(self._frame(), reward, timestep.discount, timestep.last())

    def _frame(self) -> np.ndarray:
        return self.env.physics.render(self.image_size, self.image_size, camera_id=0)


class Replay:
    """A ring of transitions with both their stacks."""

    def __init__(self, capacity: int, image: tuple[int, int, int], action_dim: int):
        self.observation = np.zeros((capacity, *image), np.uint8)  # [N,C,H,W]
        self.next_observation = np.zeros((capacity, *image), np.uint8)
        self.action = np.zeros((capacity, action_dim), np.float32)
        self.reward, self.discount = np.zeros(capacity, np.float32), np.zeros(capacity, np.float32)
        self.count, self.generator = 0, np.random.default_rng(0)

    def add(self, observation: np.ndarray, action: np.ndarray, step: Step, next_observation: np.ndarray) -> None:
        slot = self.count % len(self.reward)
        self.observation[slot], self.next_observation[slot] = observation, next_observation
        self.action[slot], self.reward[slot], self.discount[slot] = action, step.reward, step.discount
        self.count += 1

    def sample(self, size: int, memory_format: torch.memory_format) -> TorchBatch:
        """B transitions, uniformly."""
        drawn = self.generator.integers(0, min(self.count, len(self.reward)), size)

        def images(stored: np.ndarray) -> torch.Tensor:
            return torch.from_numpy(stored[drawn]).contiguous(memory_format=memory_format)

        action, reward, discount = (
            torch.from_numpy(stored[drawn]) for stored in (self.action, self.reward, self.discount)
        )
        return TorchBatch(images(self.observation), action, reward, discount, images(self.next_observation))


class TorchLoop:
    """Acts, steps, stores and learns on CPU, as many updates per transition as ``config`` makes."""

    def __init__(self, config: Config, world: World, agent: TorchRAD):
        sac, size, stack = config.sac, config.env.image_size, config.env.frame_stack
        self.world, self.agent, self.sac = world, agent, sac
        self.ratio = sac.updates_per_step / config.env.num_envs
        self.replay = Replay(config.replay.capacity, (3 * stack, size, size), world.action_dim)
        self.due, self.updates = 0.0, 0
        self.frames: deque[np.ndarray] = deque(maxlen=stack)
        self._start()

    def _start(self) -> None:
        frame = self.world.reset().transpose(2, 0, 1)
        self.frames.extend([frame] * (self.frames.maxlen or 1))

    def run(self, steps: int, *, learn: bool) -> None:
        """That many transitions, with the updates that are due after each."""
        for _ in range(steps):
            self._step()
            self.due += self.ratio * learn
            while self.due >= 1.0:
                self._update()
                self.due -= 1.0

    def _step(self) -> None:
        observation = np.concatenate(self.frames)
        noise = torch.randn(1, self.world.action_dim)
        action = self.agent.act(torch.from_numpy(observation)[None], noise)[0].numpy()
        step = self.world.step(action)
        self.frames.append(step.frame.transpose(2, 0, 1))
        self.replay.add(observation, action, step, np.concatenate(self.frames))
        if step.last:
            self._start()

    def _update(self) -> None:
        batch = self.replay.sample(self.sac.batch_size, self.agent.memory_format)
        with_actor = self.updates % self.sac.actor_update_every == 0
        self.agent.update(batch, self.agent.draw(self.sac.batch_size), with_actor=with_actor)
        self.updates += 1
