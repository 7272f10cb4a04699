"""The engine's end of a line: messages in, replies out, in order. ``worker`` lays the line."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from covr_jax.types import Array
from covr_jax.vlm import finetune_round
from covr_jax.vlm.serving.protocol import Engine, FinetuneBatch, model_info

Build = Callable[[], Engine]


class State(NamedTuple):
    """Where an engine should be. A new generation begins whenever the other end gives up what was under way."""

    generation: int
    version: int | None  # of the adapter, to be found in the store; None: a fresh one, which becomes version 0
    counters: dict[str, float]


class WorkerSetup(NamedTuple):
    """What a worker begins with."""

    store: Path  # where it keeps its adapters, one directory per version
    state: State


class Ask(NamedTuple):
    """Answer these frames."""

    number: int
    frames: Array


class Load(NamedTuple):
    """Go on with this adapter, under this version, which is kept in the store from now on."""

    adapter: Path
    version: int


class Request(NamedTuple):
    """A task, and the state to begin it in when the generation is a new one."""

    state: State
    task: Ask | FinetuneBatch | Load


class Response(NamedTuple):
    """What a worker says; ``counters`` are the engine's. All kinds but hello and progress end an order."""

    kind: Literal["hello", "answer", "progress", "taught", "loaded", "refused", "failed"]
    value: Any
    generation: int
    version: int
    counters: dict[str, float]


def serve(
    build: Build,
    setup: WorkerSetup,
    receive: Callable[[], Request | None],
    send: Callable[[Response], None],
    lives_on: bool,
) -> None:
    """Runs an engine until ``receive`` gives None; with ``lives_on`` also past a failure, which is reported."""
    server = _Server(setup, send)
    try:
        server.start(build)
    except Exception as error:  # whatever a library raises; the run must go on without it
        server.reply("failed", one_line(error))
        return
    while (order := receive()) is not None:
        try:
            server.handle(order)
        except Exception as error:  # as above, running out of memory included
            server.reply("failed", one_line(error))
        else:
            continue
        if not lives_on:
            return
        _free_memory()


class _Server:
    """One engine, its version and generation."""

    engine: Engine

    def __init__(self, setup: WorkerSetup, send: Callable[[Response], None]):
        self.store, self.send, self.first = setup.store, send, setup.state
        self.generation, self.version = setup.state.generation, setup.state.version or 0
        self.counters: dict[str, float] = {}

    def start(self, build: Build) -> None:
        self.engine = build()
        self.counters = self.engine.counters
        if self.first.version is None:
            self.engine.save_adapter(self._place(0))
        else:
            self._enter(self.first)
        self.reply("hello", model_info(self.engine))

    def reply(self, kind: Any, value: Any) -> None:
        self.send(Response(kind, value, self.generation, self.version, dict(self.counters)))

    def handle(self, order: Request) -> None:
        if order.state.generation != self.generation:
            self._enter(order.state)
        task = order.task
        if isinstance(task, Ask):
            prior = self.engine.query(task.frames)
            self.reply("answer", (task.number, np.asarray(prior.action), np.asarray(prior.valid)))
        elif isinstance(task, FinetuneBatch):
            self.reply("taught", self._teach(task))
        else:
            self._load(task)

    def _enter(self, state: State) -> None:
        """A new generation: nothing of what the last one left half done, or done too late, counts."""
        self.generation, self.version = state.generation, state.version or 0
        self.counters.update({k: v for k, v in state.counters.items() if k in self.counters})
        self.engine.load_adapter(self._place(self.version))

    def _teach(self, lesson: FinetuneBatch) -> dict[str, Any]:
        """The whole lesson, its adapter on the disk, or the adapter and the count of rounds of before."""
        rounds = self.counters["rounds"]
        try:
            record = finetune_round.run_finetune_round(self.engine, lesson, lambda *step: self.reply("progress", step))
            self.engine.save_adapter(self._place(self.version + 1))
        except BaseException:
            self.counters["rounds"] = rounds
            self.engine.load_adapter(self._place(self.version))
            raise
        self.version += 1
        return record

    def _load(self, task: Load) -> None:
        try:
            self.engine.load_adapter(task.adapter)
        except RuntimeError as error:
            self.reply("refused", one_line(error))
            return
        self.version = task.version
        self.engine.save_adapter(self._place(self.version))
        self.reply("loaded", None)

    def _place(self, version: int) -> Path:
        return self.store / str(version)


def one_line(error: BaseException, limit: int = 300) -> str:
    """Type and text of an error."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:limit]


def _free_memory() -> None:
    """Gives back what a failed call held, on the GPU too."""
    gc.collect()
    if "torch" in sys.modules:
        torch = sys.modules["torch"]
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
