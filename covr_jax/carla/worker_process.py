"""The parent's handle on the child process that runs the ``carla`` client."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from typing import Any

from covr_jax.carla.channel import Channel, ChannelTimeout, Failure, Request
from covr_jax.carla.servers import child_environment, child_output


class StepFailure(Exception):
    """A request that failed.

    Attributes:
      kind: one word, see ``channel.Failure``.
      final: True where a new attempt cannot succeed.
    """

    def __init__(self, failure: Failure):
        super().__init__(failure.text)
        self.kind, self.final = failure.kind, failure.final


class WorkerProcess:
    """One child process, started on construction."""

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
        self._lock = threading.Lock()  # after Ctrl-C the thread of an env may still wait for its response

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self._process.pid

    def call(self, request: Request, timeout_s: float) -> Any:
        """Sends a request and returns the response.

        Raises:
          StepFailure: the request failed, or the child died or did not respond in time. Only ``kill`` may follow.
        """
        try:
            with self._lock:
                self._channel.send(request, timeout_s)
                response = self._channel.receive(timeout_s)
        except ChannelTimeout:
            name = type(request).__name__.lower()
            raise StepFailure(Failure("silence", f"no answer to {name} within {timeout_s:g} s")) from None
        except (EOFError, OSError):
            raise StepFailure(Failure("crash", f"the client's process ended: {self._exit_status()}")) from None
        if isinstance(response, Failure):
            raise StepFailure(response)
        return response

    def _exit_status(self) -> str:
        """Name of the signal that ended the child, or its exit code."""
        self._process.kill()
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def kill(self) -> None:
        """Kills the child and closes the channel."""
        self._process.kill()
        self._process.wait()
        self._channel.close()
