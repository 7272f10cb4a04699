"""Serve one environment: ``python -m covr_jax.carla.worker FD PARENT``, FD being one end of a ``channel.Channel``.

It ends when told to, when the line closes or when its parent process is gone, and never through the interpreter's own
exit, in which the client is known to abort.
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

_LOOK_S = 0.25  # between two looks at the parent
_LEAVE_S = 10.0  # for giving somebody else's server its clock back


class Worker:
    """Requests in, answers out."""

    def __init__(self, parent: int):
        self._parent = parent
        self._session: Session | None = None
        self._server_group: int | None = None
        threading.Thread(target=self._watch, name="parent", daemon=True).start()

    def _watch(self) -> None:
        """An orphan ends at once, with the server that its parent had started; or soon, once it has left another's."""
        while os.getppid() == self._parent:
            time.sleep(_LOOK_S)
        if self._server_group is None:
            time.sleep(_LEAVE_S)  # ``main`` leaves the world and exits
        else:
            with contextlib.suppress(ProcessLookupError):  # it has ended already
                os.killpg(self._server_group, signal.SIGKILL)
        os._exit(0)

    def answer(self, request: Request) -> object:
        """Do it. Raises whatever went wrong."""
        if isinstance(request, Connect):
            self._server_group = request.setup.server_group
            self._session = Session(request.setup)
            return self._session.facts
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
    """Answer the parent until it is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which then closes the line
    channel = Channel(socket.socket(fileno=int(sys.argv[1])))
    worker = Worker(int(sys.argv[2]))
    try:
        while True:
            request = channel.receive()
            try:
                answer = worker.answer(request)
            except Exception as error:
                answer = failure_of(error)
            channel.send(answer)
            if isinstance(request, Close):
                break
    except (EOFError, OSError):  # the parent let go of the line: nobody is left to tell, but the world is to be left
        with contextlib.suppress(Exception):
            worker.answer(Close())
    os._exit(0)


if __name__ == "__main__":
    main()
