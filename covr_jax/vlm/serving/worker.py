"""Where an engine lives when the learner does not wait for it: a thread of this process, or a child of its own.

Both run ``server.serve``; the other end of the line is ``supervise.SupervisedService``.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import sys
import threading
from typing import Any, Protocol

from covr_jax.vlm.serving import shared
from covr_jax.vlm.serving.protocol import FinetuneBatch
from covr_jax.vlm.serving.server import Ask, Build, Request, Response, WorkerSetup, serve


class Worker(Protocol):
    """The parent's end."""

    def send(self, order: Request) -> None:
        """Hand over; never waits. Raises PriorError where there is no room."""
        ...

    def poll(self, timeout: float) -> list[Response]:
        """Replies so far; waits up to ``timeout`` seconds for the first."""
        ...

    def alive(self) -> bool:
        """Whether replies may still come."""
        ...

    def kill(self) -> bool:
        """End it at once and forget its messages; False where it lives on (a thread)."""
        ...

    def close(self) -> None:
        """Let it end; waits a few seconds."""
        ...


class ThreadWorker:
    """``serve`` in a thread: arrays cross as they are, and a hung call cannot be ended."""

    def __init__(self, build: Build, setup: WorkerSetup):
        self._inbox: queue.Queue[Request | None] = queue.Queue()
        self._outbox: queue.Queue[Response] = queue.Queue()
        arguments = (build, setup, self._inbox.get, self._outbox.put, True)
        self._thread = threading.Thread(target=serve, args=arguments, name="vlm", daemon=True)
        self._thread.start()

    def send(self, order: Request) -> None:
        """See ``Worker``."""
        self._inbox.put(order)

    def poll(self, timeout: float) -> list[Response]:
        """See ``Worker``."""
        replies = []
        with contextlib.suppress(queue.Empty):
            replies.append(self._outbox.get(timeout=timeout) if timeout > 0 else self._outbox.get_nowait())
            while True:
                replies.append(self._outbox.get_nowait())
        return replies

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
        self._thread.join(5.0)


class ProcessWorker:
    """``serve`` in a spawned child with its own memory and its own JAX, which stays on the CPU."""

    def __init__(self, build: Build, setup: WorkerSetup):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_child, args=(build, setup, theirs), name="vlm", daemon=True)
        self._process.start()
        theirs.close()
        self._blocks: list[Any] = []  # in the order of the messages; each goes back when its reply has come
        self._open = True

    def send(self, order: Request) -> None:
        """See ``Worker``. Raises PriorError where shared memory is too small."""
        task, block = order.task, None
        if isinstance(task, FinetuneBatch):
            block, parcel = shared.pack(*task[:-1])
            order = order._replace(task=(parcel, task.shown))
        elif isinstance(task, Ask):
            block, parcel = shared.pack(task.frames)
            order = order._replace(task=(task.number, parcel))
        self._blocks.append(block)
        with contextlib.suppress(OSError):  # a dead child is found out by ``poll``
            self._connection.send(order)

    def poll(self, timeout: float) -> list[Response]:
        """See ``Worker``."""
        replies: list[Response] = []
        try:
            while self._open and self._connection.poll(0 if replies else timeout):
                reply = self._connection.recv()
                replies.append(reply)
                if reply.kind not in ("hello", "progress") and self._blocks:
                    self._release(1)
        except (EOFError, OSError):
            self._open = False
        return replies

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
            self._connection.close()  # the child reads the end of the pipe
            self._process.join(5.0)
        self._process.kill()
        self._process.join(5.0)
        self._open = False
        self._release(len(self._blocks))


def _child(build: Build, setup: WorkerSetup, connection: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; its end of the pipe then closes
    # The accelerator's memory is the learner's and the model's. JAX reads the variable when it is imported.
    os.environ["JAX_PLATFORMS"] = "cpu"
    if "jax" in sys.modules:
        sys.modules["jax"].config.update("jax_platforms", "cpu")

    def receive() -> Request | None:
        try:
            order = connection.recv()
        except (EOFError, OSError):
            return None
        first, second = order.task
        if isinstance(first, shared.SharedArrays):
            frames, action, weight, held_frames, held_action = shared.unpack(first)
            return order._replace(task=FinetuneBatch(frames, action, weight, held_frames, held_action, second))
        if isinstance(second, shared.SharedArrays):
            return order._replace(task=Ask(first, *shared.unpack(second)))
        return order

    with contextlib.suppress(OSError):  # nobody listens any more
        serve(build, setup, receive, connection.send, lives_on=False)
