"""Serves one environment: ``python -m covr_jax.carla.worker FD PARENT``, with FD one end of a ``channel.Channel``.

The process ends after ``Close``, when the channel closes or when its parent process has died. It never ends through the
interpreter's own exit, in which the client is known to abort.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time

from covr_jax.carla.channel import Channel, Close, Connect, Load, Request, Reset, Step
from covr_jax.carla.worker.failures import Fault, failure_of
from covr_jax.carla.worker.session import Session
from covr_jax.runtime.signals import leave_to_parent

_POLL_S = 0.25  # between two checks of the parent
_LEAVE_S = 10.0  # time to give another's server its clock back


class Worker:
    """Handles the parent's requests."""

    def __init__(self, parent: int):
        self._parent = parent
        self._session: Session | None = None
        self._server_group: int | None = None
        threading.Thread(target=self._watch_parent, name="parent", daemon=True).start()

    def _watch_parent(self) -> None:
        """Ends this process when its parent has died: at once with its own server, or after leaving another's."""
        while os.getppid() == self._parent:
            time.sleep(_POLL_S)
        if self._server_group is None:
            time.sleep(_LEAVE_S)  # meanwhile ``main`` closes the session and exits
        else:
            with contextlib.suppress(ProcessLookupError):  # the server has ended already
                os.killpg(self._server_group, signal.SIGKILL)
        os._exit(0)

    def respond(self, request: Request) -> object:
        """Carries out a request and returns the response; raises any exception of the session."""
        if isinstance(request, Connect):
            self._server_group = request.setup.server_group
            self._session = Session(request.setup)
            return self._session.info
        if self._session is None:
            raise Fault("worker", "not connected")
        if isinstance(request, Load):
            return self._session.load()
        if isinstance(request, Reset):
            return self._session.reset(request.seed, request.episode)
        if isinstance(request, Step):
            return self._session.step(request.steer, request.throttle, request.brake)
        return self._session.close()


def main() -> None:
    """Responds to the parent until it closes the channel."""
    leave_to_parent()  # which then closes the channel
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    worker = Worker(int(sys.argv[2]))
    try:
        while True:
            request = channel.receive()
            try:
                response = worker.respond(request)
            except Exception as error:
                response = failure_of(error)
            channel.send(response)
            if isinstance(request, Close):
                break
    except (EOFError, OSError):  # the parent closed the channel; another's server must still get its clock back
        with contextlib.suppress(Exception):
            worker.respond(Close())
    os._exit(0)


if __name__ == "__main__":
    main()
