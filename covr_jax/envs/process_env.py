"""A dm_env environment in a child process of its own, its pictures in shared memory."""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable
from typing import Any, NamedTuple

import dm_env
import numpy as np

from covr_jax.types import EnvironmentLost


class Specs(NamedTuple):
    """The specs of an environment, told once by the child."""

    observation: Any
    action: Any
    reward: Any
    discount: Any


class ProcessEnv(dm_env.Environment):
    """``build()`` in a spawned child: simulators that hold Python's lock then run beside each other.

    ``build`` must be picklable; the environment has pictures u8[image_size,image_size,3], ``seed`` and ``metrics`` (see
    ``host_env.HostEnv``). The child ends with this object's ``close`` or with this process, however that ends.

    Raises:
      EnvironmentLost: from any call, once the child is dead; or what went wrong in it, in one line.
    """

    def __init__(self, build: Callable[[], dm_env.Environment], image_size: int):
        context = multiprocessing.get_context("spawn")  # a fork would inherit JAX's threads and locks
        self._frame = context.RawArray("B", 3 * image_size**2)
        self._shape = (image_size, image_size, 3)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(build, theirs, self._frame), name="host_env", daemon=True)
        self._process.start()
        theirs.close()
        self._specs: Specs = self._call("specs")

    def _call(self, verb: str, argument: Any = None) -> Any:
        try:
            self._connection.send((verb, argument))
            answer, error = self._connection.recv()
        except (EOFError, OSError) as gone:
            self._process.join(5.0)
            text = f"the process of an environment died (exit code {self._process.exitcode})"
            raise EnvironmentLost(text) from gone
        if error is not None:
            raise EnvironmentLost(f"an environment failed: {error}")
        return answer

    def _timestep(self, answer: tuple[int, float | None, float | None]) -> dm_env.TimeStep:
        frame = np.frombuffer(self._frame, np.uint8).reshape(self._shape).copy()
        return dm_env.TimeStep(dm_env.StepType(answer[0]), answer[1], answer[2], frame)

    def seed(self, seed: int) -> None:
        """See ``HostEnv``."""
        self._call("seed", seed)

    def reset(self) -> dm_env.TimeStep:
        """See ``dm_env.Environment``."""
        return self._timestep(self._call("reset"))

    def step(self, action: Any) -> dm_env.TimeStep:
        """See ``dm_env.Environment``."""
        return self._timestep(self._call("step", np.asarray(action)))

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
        """End the child."""
        self._connection.close()  # it reads the end of the pipe
        self._process.join(5.0)
        self._process.kill()
        self._process.join(5.0)


def _serve(build: Callable[[], Any], connection: Any, block: Any) -> None:
    """The child: one answer (value, error) per verb until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; its end of the pipe then closes
    frame = np.frombuffer(block, np.uint8)
    env: Any = None
    with contextlib.suppress(EOFError, OSError):
        while True:
            verb, argument = connection.recv()
            try:
                env = build() if env is None else env
                answer = _answer(env, verb, argument, frame), None
            except Exception as error:  # any simulator may fail in any way; the parent decides
                answer = None, " ".join(f"{type(error).__name__}: {error}".split())
            connection.send(answer)
    if env is not None:
        env.close()


def _answer(env: Any, verb: str, argument: Any, frame: np.ndarray) -> Any:
    if verb == "specs":
        return Specs(env.observation_spec(), env.action_spec(), env.reward_spec(), env.discount_spec())
    if verb == "seed":
        return env.seed(argument)
    if verb == "metrics":
        return env.metrics()
    timestep = env.reset() if verb == "reset" else env.step(argument)
    frame[:] = timestep.observation.reshape(-1)
    return int(timestep.step_type), timestep.reward, timestep.discount
