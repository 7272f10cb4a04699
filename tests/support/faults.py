"""An engine that fails on command, in a thread or in a child process, which imports this module."""

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

MODES = ["async", "process"]
PATIENCE_S = 60.0  # time limit of the tests, not reached when they pass


def wait_for(path: Path) -> None:
    """Waits until a file exists."""
    end = time.monotonic() + PATIENCE_S
    while not path.exists():
        assert time.monotonic() < end, f"{path.name} was not written"
        time.sleep(0.002)


class Faulty(FakeVLM):
    """A file ``<call>.<fault>`` in a folder makes one call fail. Faults: error, memory, exit, hang (until ``go``).

    With the fault ``slow`` it works until ``go``, and says so.
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder
        self._fail("load")

    def _fail(self, call: str) -> None:
        for command in self.folder.glob(f"{call}.*"):
            fault = command.suffix[1:]
            command.unlink()
            if fault == "error":
                raise ValueError("no\nsuch thing")
            if fault == "memory":
                raise MemoryError
            if fault == "exit":
                os._exit(7)
            (self.folder / "entered").touch()
            while fault == "slow" and not (self.folder / "go").exists():
                assert self.working
                self.working()
                time.sleep(0.002)
            wait_for(self.folder / "go")

    def query(self, frames):
        self._fail("query")
        return super().query(frames)

    def finetune(self, frames, actions, weights, progress=None):
        record = super().finetune(frames, actions, weights, progress)
        self._fail("finetune")  # the adapter has changed already
        return record


class Clock:
    """A clock that the test sets, in seconds."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def supervised(mode: str, folder: Path, clock=time.monotonic, **retry) -> SupervisedService:
    """A service around a ``Faulty`` engine."""
    worker = {"async": ThreadWorker, "process": ProcessWorker}[mode]
    policy = RetryPolicy(**{"deadline_s": PATIENCE_S, "hang_s": PATIENCE_S, "restarts": 3, **retry})
    return SupervisedService(partial(worker, partial(Faulty, folder)), folder / "store", policy, clock)


def some_frames(seed: int, n: int = 6) -> np.ndarray:
    """Random frames u8[n,8,8,3]."""
    return np.random.default_rng(seed).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def some_batch(seed: int = 0) -> FinetuneBatch:
    """A batch that increases the bias of ``FakeVLM`` by 1.5."""
    weight = np.array([1.0, 0.0, 0.5, 0.0], np.float32)
    return FinetuneBatch(
        some_frames(seed, 4), np.ones((4, 1), np.float32), weight, some_frames(9, 3), np.zeros((3, 1)), 2
    )


def expected(frames, bias: float = 0.0):
    """The prior of a ``FakeVLM`` whose bias fine-tuning has moved."""
    engine = FakeVLM()
    engine.bias = bias
    return engine.query(frames)


def inject(folder, *faults):
    """Makes the next calls fail."""
    for fault in faults:
        (folder / fault).touch()


def submit(service, step):
    """Submits a query and returns whether it was accepted."""
    return service.submit(step, some_frames(step))


def counts(service, *names):
    """Values of counters."""
    return [service.counters[name] for name in names]


def assert_answer(answers, query_step, bias=0.0):
    """Asserts that there is one answer, that of ``submit``."""
    assert [answer.query_step for answer in answers] == [query_step]
    np.testing.assert_array_equal(answers[0].prior.action, expected(some_frames(query_step), bias).action)


def wait_until(holds):
    """Waits until a condition holds."""
    end = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.002)
