"""The parent's side: a child process with the ``carla`` client, watched by the clock, killed by pid, started again.

The client may crash its process, abort in a thread of its own or hang while it holds the interpreter, so nothing of it
runs here. After any fault its child is ended and a new one connects; a server of our own that died, or that a new child
cannot talk to, is started anew as well.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from covr_jax.carla.channel import (
    Channel,
    ChannelTimeout,
    Close,
    Connect,
    Failure,
    Load,
    Request,
    Reset,
    SessionSetup,
    Step,
    Stepped,
    WorkerInfo,
)
from covr_jax.carla.servers import Address, OwnServer, child_environment, child_output
from covr_jax.types import Array, EnvironmentLost

_MARGIN_S = 2.0  # by which the parent waits longer than the child's own limits
_CLOSE_S = 5.0
_COUNTERS = ("faults", "restarts", "server_restarts", "late_pictures", "late_collisions")
_PAUSE_S, _LONGEST_PAUSE_S = 0.1, 10.0  # between attempts; doubles


class RetryPolicy(NamedTuple):
    """How patient the parent is, in seconds."""

    connect_s: float = 60.0
    load_s: float = 120.0
    reset_s: float = 30.0
    step_s: float = 5.0
    call_s: float = 2.0  # of the client itself, for one call or one picture
    patience_s: float = 150.0  # of one reset, whatever happens
    restarts: int = 5  # children ended by faults, within ``window_s``
    window_s: float = 600.0
    recycle: int = 200  # episodes after which child and, if it is ours, server are replaced: both grow


class CarlaError(EnvironmentLost):
    """What no new attempt will cure."""


class ServerGone(CarlaError):
    """The server does not come back, or fails too often."""


class ServerRefused(CarlaError):
    """The server is there but cannot be used: another version, no such map, an unknown host."""


class StepFailure(Exception):
    """A request that failed; ``kind`` is one word."""

    def __init__(self, failure: Failure):
        super().__init__(failure.text)
        self.kind, self.final = failure.kind, failure.final


class Child:
    """One child process."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-P", "-m", "covr_jax.carla.worker", str(theirs.fileno()), str(os.getpid())]
        self._process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=child_output(),
        )
        theirs.close()
        self._channel = Channel(ours)
        self._turn = threading.Lock()  # after Ctrl-C a lane's thread may still wait for its answer

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def ask(self, request: Request, deadline_s: float) -> Any:
        """Its answer. Raises StepFailure where it fails, dies or stays silent; only ``kill`` may follow then."""
        try:
            with self._turn:
                self._channel.send(request, deadline_s)
                answer = self._channel.receive(deadline_s)
        except ChannelTimeout:
            name = type(request).__name__.lower()
            raise StepFailure(Failure("silence", f"no answer to {name} within {deadline_s:g} s")) from None
        except (EOFError, OSError):
            raise StepFailure(Failure("crash", f"the client's process ended: {self._obituary()}")) from None
        if isinstance(answer, Failure):
            raise StepFailure(answer)
        return answer

    def _obituary(self) -> str:
        self._process.kill()
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """End it at once."""
        self._process.kill()
        self._process.wait()
        self._channel.close()


class CarlaSupervisor:
    """A simulator that is always there: see the module.

    Args:
      setup: the child's instructions, see ``channel.SessionSetup``; where the server is and the times are filled in here.
      server: a server of our own, or the address of somebody else's. clock: seconds; tests turn it by hand.

    Attributes:
      counters: faults, restarts (of children), server_restarts; late_pictures and late_collisions.
      last_fault: kind and text of the last fault, or "".
      town, facts: of the last connection.
    """

    def __init__(
        self,
        setup: SessionSetup,
        server: OwnServer | Address,
        limits: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._setup, self._server, self._limits, self._clock = setup, server, limits, clock
        self._child: Child | None = None
        self._faults: deque[float] = deque()  # when
        self._episodes = 0  # of this child and server
        self._late = {"pictures": 0, "collisions": 0}  # of this child
        self.counters: dict[str, int] = dict.fromkeys(_COUNTERS, 0)
        self.last_fault = ""
        self.town, self.facts = "", WorkerInfo("", "")

    def reset(self, seed: int, episode: int) -> Array:
        """The first picture u8[H,W,3] of an episode. Raises ServerGone or ServerRefused; nothing is left running."""
        end, pause, failed = self._clock() + self._limits.patience_s, _PAUSE_S, False
        while True:
            if self._exhausted():
                self.close()
                times, window = len(self._faults), self._limits.window_s
                raise ServerGone(f"the simulator failed {times} times within {window:g} s; last: {self.last_fault}")
            try:
                self._ready(end, fresh_server=failed)
                image = self._ask(Reset(seed, episode), self._limits.reset_s)
                self._episodes += 1
                return image
            except StepFailure as mishap:
                if mishap.final:
                    self.close()
                    raise ServerRefused(str(mishap)) from None
            if self._clock() + pause > end:
                self.close()
                raise ServerGone(f"the simulator does not come back: {self.last_fault}") from None
            failed = True
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def step(self, steer: float, throttle: float, brake: float) -> Stepped:
        """One agent step. Raises StepFailure, after which only ``reset`` or ``close`` may follow."""
        stepped = self._ask(Step(steer, throttle, brake), self._limits.step_s)
        for name, count in stepped.late.items():
            self.counters[f"late_{name}"] += count - self._late[name]
        self._late = stepped.late
        return stepped

    def close(self) -> None:
        """Take our things out of the world and end what we started; may be called twice."""
        self._retire()
        if isinstance(self._server, OwnServer):
            self._server.stop()

    @property
    def pid(self) -> int | None:
        """The child's, while there is one."""
        return self._child.pid if self._child else None

    @property
    def server_pid(self) -> int | None:
        """That of a server of our own, while it runs."""
        return self._server.group if isinstance(self._server, OwnServer) else None

    @property
    def address(self) -> Address:
        """Where the server is, or was last."""
        return self._server.address if isinstance(self._server, OwnServer) else self._server

    # ---------------------------------------------------------------- inside

    def _retire(self) -> None:
        """Let the child take our things out of the world and end."""
        if self._child is not None:
            with contextlib.suppress(StepFailure):  # it is about to be ended anyway
                self._child.ask(Close(), _CLOSE_S)
            self._drop()
        self._episodes = 0

    def _drop(self) -> None:
        """End the child at once."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def _ready(self, end: float, fresh_server: bool) -> None:
        """A child that has loaded the map; ``fresh_server`` replaces a server of our own in any case."""
        worn = self._episodes >= self._limits.recycle
        if worn:
            self._retire()
        if isinstance(self._server, OwnServer) and (worn or fresh_server or not self._server.alive()):
            self._drop()
            self._replace(self._server)
        if self._child is not None:
            return
        self.counters["restarts"] += bool(self.counters["faults"])
        left = max(1.0, end - self._clock())
        connect_s = min(self._limits.connect_s, left)
        host, port = self.address
        setup = self._setup._replace(
            host=host, port=port, connect_s=connect_s, load_s=self._limits.load_s, call_s=self._limits.call_s,
            server_group=self.server_pid,
        )  # fmt: skip
        self._child, self._late = Child(), dict.fromkeys(self._late, 0)
        self.facts = self._ask(Connect(setup), connect_s + self._limits.call_s + _MARGIN_S)
        self.town = self._ask(Load(), min(self._limits.load_s, left) + _MARGIN_S)

    def _replace(self, server: OwnServer) -> None:
        self.counters["server_restarts"] += server.group is not None
        try:
            server.start()
        except OSError as error:
            self._note(Failure("no_server", str(error)))
            raise StepFailure(Failure("no_server", str(error))) from None

    def _ask(self, request: Request, deadline_s: float) -> Any:
        """Ask the child; a fault ends it."""
        if self._child is None:
            raise RuntimeError("reset comes first")
        try:
            return self._child.ask(request, deadline_s)
        except StepFailure as mishap:
            self._note(Failure(mishap.kind, str(mishap)))
            self._drop()
            raise

    def _note(self, failure: Failure) -> None:
        self.counters["faults"] += 1
        self.last_fault = f"{failure.kind}: {failure.text}"
        self._faults.append(self._clock())

    def _exhausted(self) -> bool:
        """Whether there were more faults lately than may be."""
        while self._faults and self._clock() - self._faults[0] > self._limits.window_s:
            self._faults.popleft()
        return len(self._faults) > self._limits.restarts
