"""Worker side of a supervised VLM: runs an engine, receives requests and sends responses, in order.

``worker`` provides the transport (a thread's queues or a child's pipe), ``supervise`` the other side.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from covr_jax.vlm import finetune_round
from covr_jax.vlm.serving.protocol import Engine, FinetuneBatch, PriorError, model_info

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Frames

_WORKING_INTERVAL_S = 1.0  # between two messages that say no more than that the engine computes

Build = Callable[[], Engine]


class State(NamedTuple):
    """State that the supervisor expects of an engine.

    A new generation begins whenever the supervisor gives up the work in progress.
    """

    generation: int
    version: int | None  # of the adapter in the store; None: a fresh adapter, which becomes version 0
    counters: dict[str, float]


class WorkerSetup(NamedTuple):
    """Initial settings of a worker."""

    store: Path  # directory of its adapters, with one subdirectory per version
    state: State


class QueryTask(NamedTuple):
    """Answer frames."""

    number: int  # identifies the query in the response
    frames: Frames


class LoadTask(NamedTuple):
    """Load an adapter and keep it in the store under a version."""

    adapter: Path
    version: int


class Request(NamedTuple):
    """A task, and the state in which to start it if the generation is a new one."""

    state: State
    task: QueryTask | FinetuneBatch | LoadTask


class Response(NamedTuple):
    """Message of a worker. All kinds but 'hello', 'working' and 'progress' complete a request.

    'failed' is an error of the engine, 'away' one of a server that the engine depends on.
    """

    kind: Literal["hello", "working", "answer", "progress", "finetuned", "loaded", "refused", "failed", "away"]
    value: Any
    generation: int
    version: int
    counters: dict[str, float]  # of the engine


def serve(
    build: Build,
    setup: WorkerSetup,
    receive: Callable[[], Request | None],
    send: Callable[[Response], None],
    keep_running: bool,
) -> None:
    """Builds an engine and handles requests until ``receive`` returns None.

    Args:
      build: makes the engine.
      setup: initial settings.
      receive: blocks until the next request; None ends the worker.
      send: sends a response.
      keep_running: go on after an error of a task. Errors are reported in either case.
    """
    server = _Server(setup, send)
    try:
        server.start(build)
    except Exception as error:  # libraries raise anything, and the run must go on without the VLM
        server.respond_error(error)
        return
    while (request := receive()) is not None:
        try:
            server.handle(request)
        except Exception as error:  # as above; running out of memory is among them
            server.respond_error(error)
        else:
            continue
        if not keep_running:
            return
        _free_memory()


class _Server:
    """An engine with its adapter version and generation."""

    engine: Engine

    def __init__(self, setup: WorkerSetup, send: Callable[[Response], None]):
        self.store, self.send, self.initial = setup.store, send, setup.state
        self.generation, self.version = setup.state.generation, setup.state.version or 0
        self.counters: dict[str, float] = {}
        self.told = time.monotonic()  # when the newest response was sent

    def start(self, build: Build) -> None:
        self.engine = build()
        self.counters = self.engine.counters
        self.engine.working = self._working
        if self.initial.version is None:
            self.engine.save_adapter(self._adapter_dir(0))
        else:
            self._start_generation(self.initial)
        self.respond("hello", model_info(self.engine))

    def _working(self) -> None:
        """A model that is slow is not one that hangs."""
        if time.monotonic() - self.told > _WORKING_INTERVAL_S:
            self.respond("working", None)

    def respond(self, kind: Any, value: Any) -> None:
        self.told = time.monotonic()
        self.send(Response(kind, value, self.generation, self.version, dict(self.counters)))

    def respond_error(self, error: Exception) -> None:
        if isinstance(error, PriorError):
            self.respond("away", str(error))
        else:
            self.respond("failed", describe_error(error))

    def handle(self, request: Request) -> None:
        if request.state.generation != self.generation:
            self._start_generation(request.state)
        task = request.task
        if isinstance(task, QueryTask):
            prior = self.engine.query(task.frames)
            self.respond("answer", (task.number, np.asarray(prior.action), np.asarray(prior.valid)))
        elif isinstance(task, FinetuneBatch):
            self.respond("finetuned", self._finetune(task))
        else:
            self._load(task)

    def _start_generation(self, state: State) -> None:
        """Discards what the last generation did not complete, or completed too late."""
        self.generation, self.version = state.generation, state.version or 0
        self.counters.update({k: v for k, v in state.counters.items() if k in self.counters})
        self._reload_adapter()

    def _reload_adapter(self) -> None:
        with contextlib.suppress(PriorError):  # the engine has it; a server that is away gets it when it is back
            self.engine.load_adapter(self._adapter_dir(self.version))

    def _finetune(self, batch: FinetuneBatch) -> dict[str, Any]:
        """Runs a round and stores its adapter; on an error restores the adapter and the number of rounds."""
        rounds = self.counters["rounds"]
        try:
            record = finetune_round.run_finetune_round(self.engine, batch, lambda *step: self.respond("progress", step))
            self.engine.save_adapter(self._adapter_dir(self.version + 1))
        except BaseException:
            self.counters["rounds"] = rounds
            self._reload_adapter()
            raise
        self.version += 1
        return record

    def _load(self, task: LoadTask) -> None:
        try:
            self.engine.load_adapter(task.adapter)
        except RuntimeError as error:
            self.respond("refused", describe_error(error))
            return
        self.version = task.version
        self.engine.save_adapter(self._adapter_dir(self.version))
        self.respond("loaded", None)

    def _adapter_dir(self, version: int) -> Path:
        return self.store / str(version)


def describe_error(error: BaseException, limit: int = 300) -> str:
    """Returns type and message of an error as one line of at most ``limit`` characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:limit]


def _free_memory() -> None:
    """Frees memory that a failed task held, on the GPU too."""
    gc.collect()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
