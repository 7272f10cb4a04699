"""An engine that fails on order, in a thread or in a child. Not in conftest.py: a spawned child must import it."""

from __future__ import annotations

import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from covr_jax.vlm.serving.fake import FakeVLM
from covr_jax.vlm.serving.protocol import FinetuneBatch
from covr_jax.vlm.serving.supervise import RetryPolicy, SupervisedService
from covr_jax.vlm.serving.worker import ProcessWorker, ThreadWorker

PATIENCE_S = 60.0  # of the tests themselves, never reached when they pass


def wait_for(path: Path) -> None:
    """Until a file is there."""
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} never came"
        time.sleep(0.002)


class Faulty(FakeVLM):
    """Obeys files in a folder: ``<verb>.<fault>`` strikes once. Faults: error, memory, exit, hang (until ``go``)."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._strike("load")

    def _strike(self, verb: str) -> None:
        for order in self.folder.glob(f"{verb}.*"):
            fault = order.suffix[1:]
            order.unlink()
            if fault == "error":
                raise ValueError("no\nsuch thing")
            if fault == "memory":
                raise MemoryError
            if fault == "exit":
                os._exit(7)
            (self.folder / "entered").touch()
            wait_for(self.folder / "go")

    def query(self, frames):
        self._strike("query")
        return super().query(frames)

    def finetune(self, frames, actions, weights, progress=None):
        record = super().finetune(frames, actions, weights, progress)
        self._strike("finetune")  # the adapter has moved already
        return record


class Clock:
    """Seconds, turned by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def supervised(mode: str, folder: Path, clock=time.monotonic, **limits) -> SupervisedService:
    """A service around a ``Faulty`` engine."""
    worker = {"async": ThreadWorker, "process": ProcessWorker}[mode]
    given = RetryPolicy(**{"deadline_s": PATIENCE_S, "hang_s": PATIENCE_S, "restarts": 3, **limits})
    return SupervisedService(partial(worker, partial(Faulty, folder)), folder / "store", given, clock)


def some_frames(seed: int, n: int = 6) -> np.ndarray:
    """u8[N,8,8,3]."""
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def some_lesson(seed: int = 0) -> FinetuneBatch:
    """Moves the fake's bias by 1.5."""
    weight = np.array([1.0, 0.0, 0.5, 0.0], np.float32)
    return FinetuneBatch(
        some_frames(seed, 4), np.ones((4, 1), np.float32), weight, some_frames(9, 3), np.zeros((3, 1)), 2
    )


def expected(frames, bias: float = 0.0):
    """The prior of an engine that nothing has happened to but lessons that moved its bias."""
    engine = FakeVLM()
    engine.bias = bias
    return engine.query(frames)
