"""A dm_env environment in a child process, with its images in shared memory.

gymnasium's AsyncVectorEnv (1.4.0) was tried in its place. Its child ends with the parent too, even after SIGKILL, and
its images arrive as copies. But with its own worker function it breaks the promises below, and a worker function that
keeps them would be as long as this file:

* The simulator exists in the child only. AsyncVectorEnv builds the first environment in the calling process too, to
  read its spaces: the simulator's libraries, and a crash while it is built, would come into the training process.
* Any exception in the child becomes an ``EnvironmentLost`` that says what went wrong. AsyncVectorEnv loses the message
  of a constructor that fails in the child, replaces that of an exception whose class takes more than one argument, and
  waits for ever if the exception cannot be pickled.
* ``close`` ends after at most ten seconds and raises nothing. After the child has died during a step, AsyncVectorEnv's
  raises EOFError and leaves its pipes open; in other cases it waits for the child without a limit.
* Only the parent handles Ctrl-C and a scheduler's signals, which end AsyncVectorEnv's children.
* ``step`` may return FIRST in the middle of an episode, see ``host_env.HostEnv``. A gymnasium ``step`` cannot.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable
from typing import Any, NamedTuple

import dm_env
import numpy as np
from numpy.typing import ArrayLike

from covr_jax.checks import finite_actions
from covr_jax.runtime.signals import leave_to_parent
from covr_jax.types import EnvironmentLost

_JOIN_S = 5.0  # seconds that a child gets to end


class Specs(NamedTuple):
    """The specs of an environment; the child sends them once."""

    observation: Any
    action: Any
    reward: Any
    discount: Any


class ProcessEnv(dm_env.Environment):
    """An environment in a spawned child, so that simulators that hold the GIL run in parallel.

    The child ends with this object's ``close`` or with this process, however that ends.

    Args:
      build: makes the environment in the child; picklable. The environment has images u8[image_size,image_size,3],
        ``seed`` and ``metrics``, see ``host_env.HostEnv``.
      image_size: height and width of the images, pixels.

    Raises:
      EnvironmentLost: from any call, when the child is dead or the environment failed; the reason in one line.
    """

    def __init__(self, build: Callable[[], dm_env.Environment], image_size: int):
        context = multiprocessing.get_context("spawn")  # a fork would inherit JAX's threads and locks
        self._image = context.RawArray("B", 3 * image_size**2)
        self._shape = (image_size, image_size, 3)
        self._connection, child_end = context.Pipe()
        args = (build, child_end, self._image)
        self._process = context.Process(target=_serve, args=args, name="host_env", daemon=True)
        self._process.start()
        child_end.close()
        self._specs: Specs = self._call("specs")

    def _call(self, method: str, argument: Any = None) -> Any:
        try:
            self._connection.send((method, argument))
            value, error = self._connection.recv()
        except (EOFError, OSError) as lost:
            self._process.join(_JOIN_S)
            text = f"the process of an environment died (exit code {self._process.exitcode})"
            raise EnvironmentLost(text) from lost
        if error is not None:
            raise EnvironmentLost(f"an environment failed: {error}")
        return value

    def _timestep(self, value: tuple[int, float | None, float | None]) -> dm_env.TimeStep:
        step_type, reward, discount = value
        image = np.frombuffer(self._image, np.uint8).reshape(self._shape).copy()
        return dm_env.TimeStep(dm_env.StepType(step_type), reward, discount, image)

    def seed(self, seed: int) -> None:
        """See ``HostEnv``."""
        self._call("seed", seed)

    def reset(self) -> dm_env.TimeStep:
        """See ``dm_env.Environment``."""
        return self._timestep(self._call("reset"))

    def step(self, action: ArrayLike) -> dm_env.TimeStep:
        """See ``dm_env.Environment``.

        Raises:
          ValueError: an action of another shape, or that is no finite number; the child does not see it.
        """
        return self._timestep(self._call("step", finite_actions(action, self._specs.action.shape)))

    def metrics(self) -> dict[str, float]:
        """See ``HostEnv``."""
        return self._call("metrics")

    def observation_spec(self) -> Any:
        """See ``dm_env.Environment``."""
        return self._specs.observation

    def action_spec(self) -> Any:
        """See ``dm_env.Environment``."""
        return self._specs.action

    def reward_spec(self) -> Any:
        """See ``dm_env.Environment``."""
        return self._specs.reward

    def discount_spec(self) -> Any:
        """See ``dm_env.Environment``."""
        return self._specs.discount

    def close(self) -> None:
        """Ends the child; kills it if it does not end by itself."""
        self._connection.close()  # the child reads the end of the pipe
        self._process.join(_JOIN_S)
        self._process.kill()
        self._process.join(_JOIN_S)


def _serve(build: Callable[[], Any], connection: Any, block: Any) -> None:
    """Runs in the child: sends one (value, error) per call until the pipe ends."""
    leave_to_parent()  # which then closes the pipe
    image = np.frombuffer(block, np.uint8)
    env: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            method, argument = connection.recv()
            try:
                env = build() if env is None else env
                response = _call_env(env, method, argument, image), None
            except Exception as error:  # any simulator may fail in any way; the parent decides
                response = None, " ".join(f"{type(error).__name__}: {error}".split())
            connection.send(response)
    if env is not None:
        env.close()


def _call_env(env: Any, method: str, argument: Any, image: np.ndarray) -> Any:
    """Calls a method of the environment; an observation goes to ``image``, the rest is returned."""
    if method == "specs":
        return Specs(env.observation_spec(), env.action_spec(), env.reward_spec(), env.discount_spec())
    if method == "seed":
        return env.seed(argument)
    if method == "metrics":
        return env.metrics()
    timestep = env.reset() if method == "reset" else env.step(argument)
    image[:] = timestep.observation.reshape(-1)
    return int(timestep.step_type), timestep.reward, timestep.discount
