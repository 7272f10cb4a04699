"""A host task with known numbers: its images show seed, env and time, its rewards count the steps."""

from __future__ import annotations

import dm_env
import numpy as np
from dm_env import specs

from covr_jax.envs import HostTask
from covr_jax.types import EnvironmentLost

LENGTHS = (3, 5)  # agent steps of an episode, by env; env 0 terminates, env 1 is truncated


class Toy(dm_env.Environment):
    """``faults``: calls of ``step``, counted from 1 over all episodes, that lose the episode."""

    def __init__(self, env_id, *, image_size, action_repeat, lengths=LENGTHS, faults=(), gone_at=None):
        self.env_id, self.size, self.repeat = env_id, image_size, action_repeat
        self.length, self.faults, self.gone_at = lengths[env_id], faults, gone_at
        self.seeds, self.actions, self.calls, self.time, self.closed = [], [], 0, 0, False

    def seed(self, seed):
        self.seeds.append(seed)

    def image(self):
        return np.full((self.size, self.size, 3), (self.seeds[-1] % 251, self.env_id, self.time), np.uint8)

    def reset(self):
        self.time = 0
        return dm_env.restart(self.image())

    def step(self, action):
        self.calls += 1
        if self.calls == self.gone_at:
            raise EnvironmentLost("the toy does not come back")
        if self.calls in self.faults:
            return self.reset()
        self.actions.append(np.asarray(action).tolist())
        self.time += 1
        reward = self.time + 10.0 * self.env_id
        if self.time < self.length:
            return dm_env.transition(reward, self.image())
        return (dm_env.truncation if self.env_id else dm_env.termination)(reward, self.image())

    def metrics(self):
        return {"length": float(self.time), "env_id": float(self.env_id)}

    def observation_spec(self):
        return specs.BoundedArray((self.size, self.size, 3), np.uint8, 0, 255)

    def action_spec(self):
        return specs.BoundedArray((2,), np.float32, -1.0, 1.0)

    def close(self):
        self.closed = True


def toy_task(options):
    """The task, and the list of the environments that it opens; ``options`` may change before it opens more."""
    opened = []

    def start(env_id, **sizes):
        opened.append(Toy(env_id, **sizes, **options))
        return opened[-1]

    task = HostTask(
        name="toy",
        open=start,
        action_dim=2,
        action_repeat=4,
        time_limit=4 * max(options.get("lengths", LENGTHS)),
        fps=20.0,
        learning_rate=1e-3,
        augmentation="translate",
        image_source="toy",
    )
    return task, opened
