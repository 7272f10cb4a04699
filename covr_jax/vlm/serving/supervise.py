"""Modes async and process: a worker that may be slow, hang or die, and a learner that never waits past its deadline.

Whatever goes wrong costs priors (the learner goes on unguided) and counts in the metrics. A worker that died is
started again, with its last whole adapter, after a pause that doubles each time and at most ``restarts`` times.
"""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from covr_jax.types import Array, Prior
from covr_jax.vlm.serving.protocol import (
    Answer,
    FinetuneBatch,
    FinetuneResult,
    ModelInfo,
    PriorError,
    Report,
    query_metrics,
)
from covr_jax.vlm.serving.server import Ask, Load, Request, Response, State, WorkerSetup
from covr_jax.vlm.serving.worker import Worker

_WAITING = 2  # questions under way; more would only grow old
_TICK_S = 0.05  # between two looks at whether the worker still lives
_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 300.0
_MISHAPS = ("failures", "hangs", "restarts", "dropped", "lost", "stale")


class RetryPolicy(NamedTuple):
    """How patient the learner is."""

    deadline_s: float = 0.0  # longest wait per chunk
    hang_s: float = 600.0  # silence after which a worker with work to do counts as hung
    restarts: int = 5  # after so many failures the rest of the sitting is unguided


class SupervisedService:
    """A ``PriorService`` around a worker.

    Args:
      start: makes a worker; called again after failures.
      store: directory for adapters, emptied here.
      clock: seconds; tests turn it by hand.

    Attributes:
      counters: the engine's, and failures (errors and deaths), hangs, restarts, dropped (questions refused because too
        much was waiting), lost (questions that a failure took along) and stale (answers of an older adapter).

    Raises:
      PriorError: if the first worker cannot start.
    """

    model_info: ModelInfo

    def __init__(
        self,
        start: Callable[[WorkerSetup], Worker],
        store: Path,
        limits: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._start, self._store, self._limits, self._clock = start, Path(store), limits, clock
        shutil.rmtree(store, ignore_errors=True)
        self.counters: dict[str, float] = dict.fromkeys(_MISHAPS, 0)
        self._generation, self._version = 0, 0
        self._asked: dict[int, int | None] = {}  # number -> time; None for ``query``
        self._number = 0
        self._answers: list[Answer] = []
        self._queried: Prior | None = None
        self._teaching, self._outcome, self._report = False, None, None
        self._loading, self._refused = False, ""
        self._stuck = False  # a thread that hangs: it cannot be ended, only waited for
        self._restart_due, self._pause_until = False, -math.inf
        self._restarts = 0  # of this sitting; the counter is the run's
        self._window_end = clock() + limits.deadline_s
        self._error = ""
        self._greeted, self._heard = False, clock()
        self._worker: Worker | None = start(WorkerSetup(self._store, State(0, None, {})))
        self._pump(lambda: self._greeted or bool(self._error), math.inf, revive=False)
        if not self._greeted:
            self.close()
            raise PriorError(self._error)

    # ----------------------------------------------------------------- service

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        return self._usable() and not self._teaching and self._outcome is None

    def submit(self, time: int, frames: Array) -> None:
        """See ``PriorService``."""
        if not self._usable() or len(self._asked) >= _WAITING:
            self.counters["dropped"] += 1
            return
        self._send_question(time, frames)

    def poll(self, time: int) -> list[Answer]:
        """See ``PriorService``."""
        del time
        self._window_end = self._clock() + self._limits.deadline_s
        self._pump(lambda: not self._asked, self._window_end)
        found, self._answers = self._answers, []
        fresh = [answer for answer in found if answer.version == self._version]
        self.counters["stale"] += len(found) - len(fresh)
        return fresh

    def submit_finetune(self, lesson: FinetuneBatch) -> None:
        """See ``PriorService``."""
        self._teaching = self._send(lesson)
        if not self._teaching:
            self._outcome = FinetuneResult({}, self._error)

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        self._report = report
        self._pump(lambda: not self._teaching, math.inf if wait else self._window_end)
        outcome, self._outcome = self._outcome, None
        return outcome

    def query(self, frames: Array) -> Prior:
        """See ``PriorService``."""
        self._queried = None
        if self._usable():
            number = self._send_question(None, frames)
            self._pump(lambda: number not in self._asked, math.inf)
        if self._queried is None:
            raise PriorError(f"the VLM gave no answer: {self._error or 'it is being restarted'}")
        return self._queried

    def save_adapter(self, directory: Path) -> None:
        """See ``PriorService``."""
        shutil.copytree(self._store / str(self._version), directory, copy_function=_link, dirs_exist_ok=True)

    def restore(self, directory: Path, counters: dict[str, float], time: int) -> None:
        """See ``PriorService``."""
        del time
        self.counters.update(counters)
        self._generation += 1  # the engine takes the counters over with it
        self._loading = self._send(Load(Path(directory), self._version + 1))
        self._refused = "" if self._loading else self._error
        self._pump(lambda: not self._loading, math.inf)
        if self._refused:
            raise PriorError(self._refused)

    def metrics(self) -> dict[str, float]:
        """See ``PriorService``."""
        down = self._worker is None or self._stuck or self._clock() < self._pause_until
        mishaps = {f"vlm/{name}": self.counters[name] for name in _MISHAPS}
        return query_metrics(self.counters) | mishaps | {"vlm/down": float(down)}

    def close(self) -> None:
        """See ``PriorService``."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self._pause_until = math.inf

    # -------------------------------------------------------------- the worker

    def _usable(self) -> bool:
        self._revive()
        return self._worker is not None and not self._stuck and self._clock() >= self._pause_until

    def _busy(self) -> bool:
        return not self._greeted or self._teaching or self._loading or bool(self._asked)

    def _send_question(self, time: int | None, frames: Array) -> int:
        self._number += 1
        number = self._number
        if self._send(Ask(number, frames)):
            self._asked[number] = time
        return number

    def _send(self, task: Ask | FinetuneBatch | Load) -> bool:
        if not self._busy():
            self._heard = self._clock()  # silence counts from the first piece of work
        try:
            if self._worker is not None:
                self._worker.send(Request(self._state(), task))
        except PriorError as error:
            self._fail("failures", str(error))
        return self._worker is not None

    def _state(self) -> State:
        return State(self._generation, self._version, dict(self.counters))

    def _pump(self, done: Callable[[], bool], end: float, revive: bool = True) -> None:
        """Takes in replies until ``done`` or the clock reads ``end``; at least those that are there."""
        while True:
            if revive:
                self._revive()
            if self._worker is not None:
                left = 0.0 if done() else max(0.0, min(end - self._clock(), _TICK_S))
                for reply in self._worker.poll(left):
                    self._handle(reply)
            self._watch()
            if done() or self._clock() >= end or self._worker is None:
                return

    def _handle(self, reply: Response) -> None:
        self._heard, self._stuck = self._clock(), False
        if reply.generation != self._generation:  # of something given up meanwhile
            return
        if reply.kind != "progress":
            self.counters.update(reply.counters)
        if reply.kind == "hello":
            self.model_info, self._greeted = reply.value, True
        elif reply.kind == "answer":
            self._take_answer(reply)
        elif reply.kind == "progress" and self._report is not None:
            self._report(*reply.value)
        elif reply.kind == "taught":
            self._commit(reply.version)
            self._teaching, self._outcome = False, FinetuneResult(reply.value)
        elif reply.kind == "loaded":
            self._commit(reply.version)
            self._loading = False
        elif reply.kind == "refused":
            self._refused, self._loading = reply.value, False
        elif reply.kind == "failed":
            self._fail("failures", reply.value)

    def _take_answer(self, reply: Response) -> None:
        number, action, valid = reply.value
        time, prior = self._asked.pop(number), Prior(action, valid)
        if time is None:
            self._queried = prior
        else:
            self._answers.append(Answer(time, prior, reply.version))

    def _commit(self, version: int) -> None:
        old, self._version = self._version, version
        if old != version:
            shutil.rmtree(self._store / str(old), ignore_errors=True)

    def _watch(self) -> None:
        """Whether the worker died or has been silent for too long."""
        if self._worker is None:
            return
        if not self._worker.alive():
            self._fail("failures", "the VLM's process ended")
        elif self._busy() and not self._stuck and self._clock() - self._heard > self._limits.hang_s:
            self._fail("hangs", f"the VLM said nothing for {self._limits.hang_s:g} s")

    def _fail(self, counter: str, text: str) -> None:
        """Give up what is under way and pause; a process is ended, a thread that hangs is left until it speaks."""
        self.counters[counter] += 1
        self.counters["lost"] += len(self._asked)
        self._error = text
        self._generation += 1
        self._asked.clear()
        if self._teaching:
            self._teaching, self._outcome = False, FinetuneResult({}, text)
        if self._loading:
            self._loading, self._refused = False, text
        if self._worker is not None and self._worker.kill():
            self._worker = None
        self._stuck = self._worker is not None and counter == "hangs"
        if not self._stuck:
            used = self._restarts
            pause = min(_PAUSE_S * 2.0**used, _LONGEST_PAUSE_S) if used < self._limits.restarts else math.inf
            self._restart_due, self._pause_until = True, self._clock() + pause

    def _revive(self) -> None:
        """Once the pause is over: a new worker with the last whole adapter, or a living thread asked again."""
        if not self._restart_due or self._clock() < self._pause_until:
            return
        self._restart_due = False
        self._restarts += 1
        self.counters["restarts"] += 1
        if self._worker is None:
            self._greeted, self._heard = False, self._clock()
            self._worker = self._start(WorkerSetup(self._store, self._state()))


def _link(source: str, target: str) -> str:
    """A second name for a file (adapters are replaced, never written into), or a copy on another file system."""
    with contextlib.suppress(FileExistsError):
        try:
            os.link(source, target)
        except OSError:
            shutil.copy2(source, target)
    return target
