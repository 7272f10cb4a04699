"""Runs an engine in a Ray actor, on this machine or another one of a Ray cluster.

The actor runs ``server.serve``; where it died, another one takes its place. Adapters cross as the bytes of their files.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError

from covr_jax.runtime.errors import one_line
from covr_jax.vlm.serving.protocol import FinetuneBatch, PriorError
from covr_jax.vlm.serving.server import Build, LoadTask, QueryTask, Request, Response, WorkerSetup, serve

_CALL_S = 10.0  # longest call of the actor that waits for responses
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_prestart_worker_first_driver": "0"}

Files = dict[str, bytes]  # of an adapter's directory


class EngineActor:
    """Side of the worker; empty until ``begin`` is called."""

    def __init__(self):
        os.environ["JAX_PLATFORMS"] = "cpu"  # the accelerator's memory belongs to the learner and the model
        if "jax" in sys.modules:
            sys.modules["jax"].config.update("jax_platforms", "cpu")
        self._folder = tempfile.TemporaryDirectory(prefix="covr-vlm-", ignore_cleanup_errors=True)
        self._store = Path(self._folder.name)
        self._inbox: queue.Queue[Request] = queue.Queue()
        self._outbox: queue.Queue[tuple[Response, Files | None]] = queue.Queue()
        self._thread = threading.Thread()

    def begin(self, build: Build, setup: WorkerSetup, files: Files | None) -> None:
        """Starts the engine with the files of its newest adapter (None: a fresh one)."""
        if files is not None:
            write_files(self._store / str(setup.state.version), files)
        arguments = (build, setup._replace(store=self._store), self._inbox.get, self._respond, False)
        self._thread = threading.Thread(target=serve, args=arguments, name="vlm", daemon=True)
        self._thread.start()

    def send(self, request: Request, files: Files | None) -> None:
        """Takes a request; ``files`` are those of the adapter of a ``LoadTask``."""
        task = request.task
        if isinstance(task, LoadTask):
            directory = self._store / "loaded"
            write_files(directory, files or {})
            request = request._replace(task=task._replace(adapter=directory))
        elif isinstance(task, QueryTask):  # objects of Ray's store are read-only
            request = request._replace(task=task._replace(frames=np.array(task.frames)))
        else:
            request = request._replace(task=FinetuneBatch(*map(np.array, task[:-1]), shown=task.shown))
        self._inbox.put(request)

    def poll(self) -> tuple[list[tuple[Response, Files | None]], bool]:
        """Returns responses, and whether more may come. Waits for the first one for up to ``_CALL_S``."""
        end, messages = time.monotonic() + _CALL_S, []
        while not messages and time.monotonic() < end:
            alive = self._thread.is_alive()
            with contextlib.suppress(queue.Empty):
                messages.append(self._outbox.get(timeout=0.2))
                while True:
                    messages.append(self._outbox.get_nowait())
            if not alive:
                return messages, False
        return messages, True

    def _respond(self, response: Response) -> None:
        files = None
        if response.kind in ("hello", "finetuned", "loaded"):
            files = read_files(self._store / str(response.version))
        self._outbox.put((response, files))


class RayWorker:
    """A ``Worker`` whose engine is the actor of ``RayActors``."""

    def __init__(self, actor: Any, build: Build, setup: WorkerSetup, end: Callable[[], None]):
        self._actor, self._store, self._end, self._open = actor, setup.store, end, True
        version = setup.state.version
        files = None if version is None else read_files(setup.store / str(version))
        self._begun = actor.begin.remote(build, setup, files)
        self._poll: Any = None

    def send(self, request: Request) -> None:
        """See ``Worker``."""
        task, files = request.task, None
        if isinstance(task, LoadTask):
            files = read_files(task.adapter)
        elif isinstance(task, QueryTask):
            request = request._replace(task=task._replace(frames=np.asarray(task.frames)))
        else:
            request = request._replace(task=FinetuneBatch(*map(np.asarray, task[:-1]), shown=task.shown))
        try:
            self._actor.send.remote(request, files)
        except (RayError, ValueError) as error:
            raise PriorError(f"Ray did not take the request: {one_line(error)}") from error

    def poll(self, timeout: float) -> list[Response]:
        """See ``Worker``."""
        if not self._open:
            return []
        waiting = self._begun if self._poll is None else self._poll
        try:
            if not ray.wait([waiting], timeout=timeout)[0]:
                return []
            value = ray.get(waiting)
            self._poll = self._actor.poll.remote()
        except RayError:
            self._open = False
            return []
        if value is None:
            return []
        messages, self._open = value
        for response, files in messages:
            if files is not None:
                write_files(self._store / str(response.version), files)
        return [response for response, _ in messages]

    def alive(self) -> bool:
        """See ``Worker``."""
        return self._open

    def kill(self) -> bool:
        """See ``Worker``."""
        self._open = False
        with contextlib.suppress(RayError):
            ray.kill(self._actor)
        return True

    def close(self) -> None:
        """See ``Worker``."""
        self._open = False
        self._end()


class RayActors:
    """Makes workers, each of an actor of its own, and starts Ray on this machine if there is no address.

    Raises:
      PriorError: if there is no such cluster, or Ray cannot be started.
    """

    def __init__(self, build: Build, address: str | None, on_gpu: bool):
        self._build, self._on_gpu, self._ours = build, on_gpu, not ray.is_initialized()
        if self._ours:
            before, handler = dict(os.environ), signal.getsignal(signal.SIGTERM)
            paths = filter(None, (str(Path(__file__).parents[3]), before.get("PYTHONPATH")))
            os.environ.update(_SETTINGS | before | {"PYTHONPATH": os.pathsep.join(paths)})
            options: dict[str, Any] = {} if address else {"include_dashboard": False}
            try:
                ray.init(address=address or "local", logging_level=logging.ERROR, log_to_driver=False, **options)
            except (OSError, ValueError, RuntimeError) as error:
                where = f"no Ray cluster at {address}" if address else "Ray cannot be started"
                raise PriorError(f"{where}: {one_line(error)}") from error
            finally:
                os.environ.clear()
                os.environ.update(before)
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)  # Ray has one of its own

        self._actor: Any = None

    def __call__(self, setup: WorkerSetup) -> RayWorker:
        """Returns a worker on a new actor, which Ray places where there is room; ``RetryPolicy`` counts them."""
        remote: Any = ray.remote(EngineActor)
        gpus = int(self._on_gpu and ray.cluster_resources().get("GPU", 0) > 0)  # at 0, Ray hides all from it
        self._actor = remote.options(num_cpus=0, num_gpus=gpus, max_concurrency=4).remote()
        return RayWorker(self._actor, self._build, setup, self._close)

    def _close(self) -> None:
        with contextlib.suppress(RayError):
            ray.kill(self._actor)
        if self._ours:
            ray.shutdown()


def read_files(directory: Path) -> Files:
    """Returns the files of a directory by name."""
    return {file.name: file.read_bytes() for file in Path(directory).glob("*") if file.is_file()}


def write_files(directory: Path, files: Files) -> None:
    """Writes files to a directory, which is made."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (directory / name).write_bytes(data)
