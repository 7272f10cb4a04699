"""Both sides of a comparison: one of our tasks, compiled, and dm_control's own.

Tracing and compiling is most of what these tests cost, so every file uses the same compiled objects. ``ENGINES`` are
the two kinds of physics; MJX of the tasks that ``conftest`` names is left to the second tier.
"""

from __future__ import annotations

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
from dm_control import suite

from covr_jax import envs
from covr_jax.envs.stepper import JitStepper

NUM_ENVS = 100
SIZE = 24  # pixels
ENGINES = ("mujoco", "mjx")


class Ours:
    """A task with one control step per step, as a run compiles it, and the same with dm_control's state observation."""

    def __init__(self, name, physics):
        options = {"action_repeat": 1, "image_size": SIZE, "samples": 1, "physics": physics}
        self.env = envs.make(name, NUM_ENVS, **options)
        for piece in ("initial", "advance", "observe"):  # traced once, whoever compiles or exports it
            setattr(self.env, piece, jax.jit(getattr(self.env, piece)))
        self.pixels = JitStepper(self.env)
        self._read = jax.jit(envs.make(name, NUM_ENVS, pixels=False, **options).observe)

    def reset(self, key):
        return self._read(self.pixels._initial(key), jnp.zeros(NUM_ENVS))

    def step(self, state, action):
        """The state is gone after the call."""
        return self._read(*self.pixels._advance(state, jnp.asarray(action)))


compiled = cache(Ours)


def load(name, seed=0):
    domain, task = name.rsplit("_", 1)
    return suite.load(domain, task, task_kwargs={"random": seed})


def flat(observation):
    return np.concatenate([np.ravel(part) for part in observation.values()])
