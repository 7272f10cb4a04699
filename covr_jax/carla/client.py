"""The parent's side: supervises the child process that runs the ``carla`` client, and a server of our own.

The client may crash its process, abort in a thread of its own or hang while it holds the interpreter, so none of it
runs in this process. After any fault the child is killed by pid and a new one connects. A server of our own that has
died, or that a new child cannot talk to, is restarted as well.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from covr_jax.carla.channel import (
    Close,
    Connect,
    Failure,
    Load,
    Request,
    Reset,
    SessionSetup,
    Step,
    StepResult,
    WorkerInfo,
)
from covr_jax.carla.servers import Address, OwnServer
from covr_jax.carla.worker_process import StepFailure, WorkerProcess
from covr_jax.types import EnvironmentLost

_MARGIN_S = 2.0  # by which the parent waits longer than the child's own time limits
_CLOSE_S = 5.0
_COUNTERS = ("faults", "restarts", "server_restarts", "late_pictures", "late_collisions")
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0  # between attempts; doubles


class RetryPolicy(NamedTuple):
    """Time limits in seconds, and how many faults are tolerated."""

    connect_s: float = 60.0
    load_s: float = 120.0
    reset_s: float = 30.0
    step_s: float = 5.0
    call_s: float = 2.0  # of the client, for one call or one image
    patience_s: float = 150.0  # of one reset, all attempts together
    restarts: int = 5  # tolerated faults within ``window_s``; each ends a child
    window_s: float = 600.0
    recycle: int = 200  # episodes after which child and own server are replaced, since their memory grows


class CarlaError(EnvironmentLost):
    """A failure that no new attempt can cure."""


class ServerGone(CarlaError):
    """The server does not come back, or fails too often."""


class ServerRefused(CarlaError):
    """The server cannot be used: another version, none of the maps, an unknown host name."""


class CarlaSupervisor:
    """Keeps one child and one server running; see the module.

    Args:
      setup: settings for the child; the server's address and the time limits are filled in here.
      server: a server of our own, or the address of a server that runs already.
      retry_policy: time limits and tolerated faults.
      clock: returns seconds; tests replace it.

    Attributes:
      counters: number of faults, of restarts of the child, of server_restarts, of late_pictures and late_collisions.
      last_fault: kind and text of the last fault, or "".
      town: name of the map of the last connection.
      info: versions of the last connection.
    """

    def __init__(
        self,
        setup: SessionSetup,
        server: OwnServer | Address,
        retry_policy: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._setup, self._server, self._retry_policy, self._clock = setup, server, retry_policy, clock
        self._child: WorkerProcess | None = None
        self._fault_times: deque[float] = deque()
        self._episodes = 0  # since this child and server were started
        self._late = {"pictures": 0, "collisions": 0}  # since this child was started
        self.counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self.last_fault = ""
        self.town, self.info = "", WorkerInfo("", "")

    def reset(self, seed: int, episode: int) -> UInt8[np.ndarray, "H W 3"]:
        """Starts an episode and returns its first image; tries again after faults.

        Raises:
          ServerGone, ServerRefused: a new attempt cannot succeed. No process of ours is left running.
        """
        end, pause, failed = self._clock() + self._retry_policy.patience_s, _FIRST_PAUSE_S, False
        while True:
            if self._too_many_faults():
                self.close()
                times, window = len(self._fault_times), self._retry_policy.window_s
                raise ServerGone(f"the simulator failed {times} times within {window:g} s; last: {self.last_fault}")
            try:
                self._ensure_child(end, fresh_server=failed)
                image = self._call(Reset(seed, episode), self._retry_policy.reset_s)
                self._episodes += 1
                return image
            except StepFailure as failure:
                if failure.final:
                    self.close()
                    raise ServerRefused(str(failure)) from None
            if self._clock() + pause > end:
                self.close()
                raise ServerGone(f"the simulator does not come back: {self.last_fault}") from None
            failed = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def step(self, steer: float, throttle: float, brake: float) -> StepResult:
        """Runs one agent step.

        Raises:
          StepFailure: the step failed; only ``reset`` or ``close`` may follow.
        """
        result = self._call(Step(steer, throttle, brake), self._retry_policy.step_s)
        for name, count in result.late.items():
            self.counters[f"late_{name}"] += count - self._late[name]
        self._late = result.late
        return result

    def close(self) -> None:
        """Removes our actors from the server and ends child and own server; may be called twice."""
        self._retire_child()
        if isinstance(self._server, OwnServer):
            self._server.stop()

    @property
    def pid(self) -> int | None:
        """Process id of the child; None where there is none."""
        return self._child.pid if self._child else None

    @property
    def server_pid(self) -> int | None:
        """Process id of a server of our own; None while there is none."""
        return self._server.group if isinstance(self._server, OwnServer) else None

    @property
    def address(self) -> Address:
        """Address of the server, or its last address."""
        return self._server.address if isinstance(self._server, OwnServer) else self._server

    def _retire_child(self) -> None:
        """Lets the child remove our actors, then ends it."""
        if self._child is not None:
            with contextlib.suppress(StepFailure):  # the child is killed next in any case
                self._child.call(Close(), _CLOSE_S)
            self._kill_child()
        self._episodes = 0

    def _kill_child(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _ensure_child(self, end: float, fresh_server: bool) -> None:
        """Makes sure that a child has loaded the map; ``fresh_server`` restarts a server of our own in any case."""
        recycle = self._episodes >= self._retry_policy.recycle
        if recycle:
            self._retire_child()
        if isinstance(self._server, OwnServer) and (recycle or fresh_server or not self._server.alive()):
            self._kill_child()
            self._restart_server(self._server)
        if self._child is not None:
            return
        self.counters["restarts"] += bool(self.counters["faults"])
        left = max(1.0, end - self._clock())
        connect_s = min(self._retry_policy.connect_s, left)
        host, port = self.address
        setup = self._setup._replace(
            host=host,
            port=port,
            connect_s=connect_s,
            load_s=self._retry_policy.load_s,
            call_s=self._retry_policy.call_s,
            server_group=self.server_pid,
        )
        self._child, self._late = WorkerProcess(), dict.fromkeys(self._late, 0)
        self.info = self._call(Connect(setup), connect_s + self._retry_policy.call_s + _MARGIN_S)
        self.town = self._call(Load(), min(self._retry_policy.load_s, left) + _MARGIN_S)

    def _restart_server(self, server: OwnServer) -> None:
        self.counters["server_restarts"] += server.group is not None
        try:
            server.start()
        except OSError as error:
            failure = Failure("no_server", str(error))
            self._record_fault(failure)
            raise StepFailure(failure) from None

    def _call(self, request: Request, timeout_s: float) -> Any:
        """Sends a request to the child; kills the child where it fails."""
        if self._child is None:
            raise RuntimeError("reset comes first")
        try:
            return self._child.call(request, timeout_s)
        except StepFailure as failure:
            self._record_fault(Failure(failure.kind, str(failure)))
            self._kill_child()
            raise

    def _record_fault(self, failure: Failure) -> None:
        self.counters["faults"] += 1
        self.last_fault = f"{failure.kind}: {failure.text}"
        self._fault_times.append(self._clock())

    def _too_many_faults(self) -> bool:
        """Whether more faults than tolerated happened within the window."""
        while self._fault_times and self._clock() - self._fault_times[0] > self._retry_policy.window_s:
            self._fault_times.popleft()
        return len(self._fault_times) > self._retry_policy.restarts
