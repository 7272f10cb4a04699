"""Runs an engine beside the learner: in a thread of this process, or in a child process.

Both run ``server.serve``; the other side is ``supervise.SupervisedService``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import sys
import threading
from typing import Any, Protocol

from covr_jax.runtime.signals import leave_to_parent
from covr_jax.vlm.serving import shared
from covr_jax.vlm.serving.protocol import FinetuneBatch
from covr_jax.vlm.serving.server import Build, QueryTask, Request, Response, WorkerSetup, serve

_JOIN_S = 5.0  # wait for the end of a thread or process


class Worker(Protocol):
    """The learner's handle of a running engine."""

    def send(self, request: Request) -> None:
        """Sends a request without waiting. Raises PriorError if there is too little memory for it."""
        ...

    def poll(self, timeout: float) -> list[Response]:
        """Returns the responses so far; waits for the first one for up to ``timeout`` seconds."""
        ...

    def alive(self) -> bool:
        """Whether responses may still come."""
        ...

    def kill(self) -> bool:
        """Ends the worker and discards its messages; False if it lives on, as a thread does."""
        ...

    def close(self) -> None:
        """Asks the worker to end and waits a few seconds for it."""
        ...


class ThreadWorker:
    """Runs ``serve`` in a thread: arrays are passed by reference, and a call that hangs cannot be ended."""

    def __init__(self, build: Build, setup: WorkerSetup):
        self._inbox: queue.Queue[Request | None] = queue.Queue()
        self._outbox: queue.Queue[Response] = queue.Queue()
        arguments = (build, setup, self._inbox.get, self._outbox.put, True)
        self._thread = threading.Thread(target=serve, args=arguments, name="vlm", daemon=True)
        self._thread.start()

    def send(self, request: Request) -> None:
        """See ``Worker``."""
        self._inbox.put(request)

    def poll(self, timeout: float) -> list[Response]:
        """See ``Worker``."""
        responses = []
        with contextlib.suppress(queue.Empty):
            responses.append(self._outbox.get(timeout=timeout) if timeout > 0 else self._outbox.get_nowait())
            while True:
                responses.append(self._outbox.get_nowait())
        return responses

    def alive(self) -> bool:
        """See ``Worker``."""
        return self._thread.is_alive() or not self._outbox.empty()

    def kill(self) -> bool:
        """See ``Worker``."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._inbox.get_nowait()
        return not self._thread.is_alive()

    def close(self) -> None:
        """See ``Worker``."""
        self.kill()
        self._inbox.put(None)
        self._thread.join(_JOIN_S)


class ProcessWorker:
    """Runs ``serve`` in a spawned child process with its own memory and its own JAX, which stays on the CPU."""

    def __init__(self, build: Build, setup: WorkerSetup):
        context = multiprocessing.get_context("spawn")
        self._connection, child_connection = context.Pipe()
        self._process = context.Process(target=_child, args=(build, setup, child_connection), name="vlm", daemon=True)
        self._process.start()
        child_connection.close()
        self._blocks: list[Any] = []  # shared memory per request, in order; freed when the response has come
        self._open = True

    def send(self, request: Request) -> None:
        """See ``Worker``. Raises PriorError if there is too little shared memory."""
        task, block = request.task, None
        if isinstance(task, FinetuneBatch):
            block, arrays = shared.pack(*task[:-1])
            request = request._replace(task=(arrays, task.shown))
        elif isinstance(task, QueryTask):
            block, arrays = shared.pack(task.frames)
            request = request._replace(task=(task.number, arrays))
        self._blocks.append(block)
        with contextlib.suppress(OSError):  # ``poll`` finds out that the child is dead
            self._connection.send(request)

    def poll(self, timeout: float) -> list[Response]:
        """See ``Worker``."""
        responses: list[Response] = []
        try:
            while self._open and self._connection.poll(0 if responses else timeout):
                response = self._connection.recv()
                responses.append(response)
                if response.kind not in ("hello", "working", "progress") and self._blocks:
                    self._release(1)
        except (EOFError, OSError):
            self._open = False
        return responses

    def alive(self) -> bool:
        """See ``Worker``."""
        return self._open

    def _release(self, count: int) -> None:
        for block in self._blocks[:count]:
            if block is not None:
                shared.release(block)
        del self._blocks[:count]

    def kill(self) -> bool:
        """See ``Worker``."""
        self._process.kill()
        self._open = False
        self._connection.close()
        self._release(len(self._blocks))
        return True

    def close(self) -> None:
        """See ``Worker``."""
        if self._open:
            self._connection.close()  # the child then reads the end of the pipe
            self._process.join(_JOIN_S)
        self._process.kill()
        self._process.join(_JOIN_S)
        self._open = False
        self._release(len(self._blocks))


def _child(build: Build, setup: WorkerSetup, connection: Any) -> None:
    """Entry point of the child process."""
    leave_to_parent()  # which then closes the pipe
    # The accelerator's memory belongs to the learner and the model. JAX reads the variable when it is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")

    def receive() -> Request | None:
        try:
            request = connection.recv()
        except (EOFError, OSError):
            return None
        first, second = request.task
        if isinstance(first, shared.SharedArrays):
            return request._replace(task=FinetuneBatch(*shared.unpack(first), shown=second))
        if isinstance(second, shared.SharedArrays):
            return request._replace(task=QueryTask(first, *shared.unpack(second)))
        return request

    with contextlib.suppress(OSError):  # the parent no longer listens
        serve(build, setup, receive, connection.send, keep_running=False)
