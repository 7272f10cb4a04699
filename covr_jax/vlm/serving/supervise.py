"""Service of all modes but sync: a worker may be slow, hang or die without blocking the learner.

Every fault costs priors (the learner goes on without guidance) and is counted in the metrics. A worker that died is
restarted with the adapter of its last completed round at most ``restarts`` times, after pauses that double. One whose
server is away is restarted until the server is back.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from covr_jax.io.files import link_or_copy
from covr_jax.types import Prior
from covr_jax.vlm.serving.protocol import (
    SERVER_COUNTERS,
    Answer,
    FinetuneBatch,
    FinetuneResult,
    ModelInfo,
    PriorError,
    Report,
    query_metrics,
)
from covr_jax.vlm.serving.server import LoadTask, QueryTask, Request, Response, State, WorkerSetup
from covr_jax.vlm.serving.worker import Worker

if TYPE_CHECKING:
    from covr_jax.vlm.serving.protocol import Frames

_MAX_PENDING = 2  # queries; more would only grow old
_POLL_INTERVAL_S = 0.05  # between two checks whether the worker is alive
_FIRST_PAUSE_S, _MAX_PAUSE_S = 1.0, 300.0  # before a restart
_MAX_AWAY_S = 30.0  # likewise, where a server is away
_FAULT_COUNTERS = ("failures", "hangs", "restarts", "dropped", "lost", "stale")


class RetryPolicy(NamedTuple):
    """Time limits and number of restarts."""

    deadline_s: float = 0.0  # longest wait of the learner per chunk
    hang_s: float = 600.0  # time without a sign of work after which a worker that has some counts as hung
    restarts: int = 5  # after as many restarts, a further failure leaves the rest of the process unguided


class SupervisedService:
    """A ``PriorService`` around a worker.

    Args:
      start: makes a worker; called again after failures.
      store: directory for adapters; its contents are deleted.
      retry: time limits and number of restarts.
      clock: returns seconds; tests pass a fake clock.

    Attributes:
      counters: those of the engine, and failures (errors, deaths and outages of a server), hangs, restarts, dropped
        (queries refused because the worker was down or too many were pending), lost (queries that were pending at a
        failure) and stale (answers of an older adapter).

    Raises:
      PriorError: if the first worker cannot start.
    """

    model_info: ModelInfo

    def __init__(
        self,
        start: Callable[[WorkerSetup], Worker],
        store: Path,
        retry: RetryPolicy,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._start, self._store, self._retry, self._clock = start, Path(store), retry, clock
        shutil.rmtree(store, ignore_errors=True)
        self.counters: dict[str, float] = dict.fromkeys(_FAULT_COUNTERS, 0)
        self._generation, self._version = 0, 0
        self._pending: dict[int, int | None] = {}  # query number -> query step; None for ``query``
        self._number = 0  # of the newest query
        self._answers: list[Answer] = []
        self._prior: Prior | None = None  # of ``query``
        self._finetuning, self._result, self._report = False, None, None
        self._loading, self._load_error = False, ""
        self._hung = False  # a thread that hangs; it cannot be ended
        self._restart_due, self._pause_until = False, -math.inf
        self._restarts = 0  # of this process; the counter is that of the run
        self._outages = 0  # failures in a row of a server
        self._window_end = clock() + retry.deadline_s
        self._error = ""  # newest one
        self._started, self._last_response = False, clock()
        self._worker: Worker | None = start(WorkerSetup(self._store, State(0, None, {})))
        self._wait_until(lambda: self._started or bool(self._error), math.inf, restart=False)
        if not self._started:
            self.close()
            raise PriorError(self._error)

    @property
    def fault(self) -> str:
        """See ``PriorService``."""
        return self._error

    @property
    def ready(self) -> bool:
        """See ``PriorService``."""
        return self._available() and not self._finetuning and self._result is None

    def submit(self, query_step: int, frames: Frames) -> bool:
        """See ``PriorService``. A query that could not be sent counts as a failure, not as dropped."""
        if not self._available() or len(self._pending) >= _MAX_PENDING:
            self.counters["dropped"] += 1
            return False
        self._send_query(query_step, frames)
        return True

    def poll(self, step: int) -> list[Answer]:
        """See ``PriorService``."""
        del step
        self._window_end = self._clock() + self._retry.deadline_s
        self._wait_until(lambda: not self._pending, self._window_end)
        answers, self._answers = self._answers, []
        fresh = [answer for answer in answers if answer.version == self._version]
        self.counters["stale"] += len(answers) - len(fresh)
        return fresh

    def submit_finetune(self, batch: FinetuneBatch) -> None:
        """See ``PriorService``."""
        self._finetuning = self._send(batch)
        if not self._finetuning:
            self._result = FinetuneResult({}, self._error)

    def poll_finetune(self, report: Report | None = None, *, wait: bool = False) -> FinetuneResult | None:
        """See ``PriorService``."""
        self._report = report
        self._wait_until(lambda: not self._finetuning, math.inf if wait else self._window_end)
        result, self._result = self._result, None
        return result

    def query(self, frames: Frames) -> Prior:
        """See ``PriorService``."""
        self._prior = None
        if self._available():
            number = self._send_query(None, frames)
            self._wait_until(lambda: number not in self._pending, math.inf)
        if self._prior is None:
            raise PriorError(f"the VLM gave no answer: {self._error or 'it is being restarted'}")
        return self._prior

    def save_adapter(self, directory: Path) -> None:
        """See ``PriorService``."""
        shutil.copytree(self._store / str(self._version), directory, copy_function=link_or_copy, dirs_exist_ok=True)

    def restore(self, directory: Path, counters: dict[str, float], step: int) -> None:
        """See ``PriorService``."""
        del step
        self.counters.update(counters)
        self._generation += 1  # with it, the engine takes over the counters
        self._loading = self._send(LoadTask(Path(directory), self._version + 1))
        self._load_error = "" if self._loading else self._error
        self._wait_until(lambda: not self._loading, math.inf)
        if self._load_error:
            raise PriorError(self._load_error)

    def metrics(self) -> dict[str, float]:
        """See ``PriorService``."""
        down = self._worker is None or self._hung or self._clock() < self._pause_until
        names = [name for name in (*_FAULT_COUNTERS, *SERVER_COUNTERS) if name in self.counters]
        faults = {f"vlm/{name}": self.counters[name] for name in names}
        return query_metrics(self.counters) | faults | {"vlm/down": float(down)}

    def close(self) -> None:
        """See ``PriorService``."""
        if self._worker is not None:
            self._worker.close()
            self._worker = None
        self._pause_until = math.inf

    def _available(self) -> bool:
        self._restart_if_due()
        return self._worker is not None and not self._hung and self._clock() >= self._pause_until

    def _busy(self) -> bool:
        return not self._started or self._finetuning or self._loading or bool(self._pending)

    def _send_query(self, query_step: int | None, frames: Frames) -> int:
        self._number += 1
        number = self._number
        if self._send(QueryTask(number, frames)):
            self._pending[number] = query_step
        return number

    def _send(self, task: QueryTask | FinetuneBatch | LoadTask) -> bool:
        if not self._busy():
            self._last_response = self._clock()  # an idle worker owes no response; ``hang_s`` counts from here
        try:
            if self._worker is not None:
                self._worker.send(Request(self._state(), task))
        except PriorError as error:
            self._fail("failures", str(error))
        return self._worker is not None

    def _state(self) -> State:
        return State(self._generation, self._version, dict(self.counters))

    def _wait_until(self, done: Callable[[], bool], end: float, restart: bool = True) -> None:
        """Handles responses until ``done`` or until the clock reads ``end``; at least those that have arrived."""
        while True:
            if restart:
                self._restart_if_due()
            if self._worker is not None:
                timeout = 0.0 if done() else max(0.0, min(end - self._clock(), _POLL_INTERVAL_S))
                for response in self._worker.poll(timeout):
                    self._handle(response)
            self._check_worker()
            if done() or self._clock() >= end or self._worker is None:
                return

    def _handle(self, response: Response) -> None:
        self._last_response, self._hung = self._clock(), False
        if response.generation != self._generation:  # of work that was given up
            return
        if response.kind not in ("working", "progress"):
            self.counters.update(response.counters)
        if response.kind == "hello":
            self.model_info, self._started = response.value, True
        elif response.kind == "answer":
            self._handle_answer(response)
        elif response.kind == "progress" and self._report is not None:
            self._report(*response.value)
        elif response.kind == "finetuned":
            self._set_version(response.version)
            self._finetuning, self._result = False, FinetuneResult(response.value)
        elif response.kind == "loaded":
            self._set_version(response.version)
            self._loading = False
        elif response.kind == "refused":
            self._load_error, self._loading = response.value, False
        elif response.kind in ("failed", "away"):
            self._fail("failures", response.value, away=response.kind == "away")

    def _handle_answer(self, response: Response) -> None:
        self._outages, self._error = 0, ""
        number, action, valid = response.value
        query_step, prior = self._pending.pop(number), Prior(action, valid)
        if query_step is None:
            self._prior = prior
        else:
            self._answers.append(Answer(query_step, prior, response.version))

    def _set_version(self, version: int) -> None:
        old, self._version = self._version, version
        if old != version:
            shutil.rmtree(self._store / str(old), ignore_errors=True)

    def _check_worker(self) -> None:
        """Registers a failure if the worker died, or a hang if it gave no sign of work for ``hang_s``."""
        if self._worker is None:
            return
        if not self._worker.alive():
            self._fail("failures", "the VLM's process ended")
        elif self._busy() and not self._hung and self._clock() - self._last_response > self._retry.hang_s:
            self._fail("hangs", f"the VLM said nothing for {self._retry.hang_s:g} s")

    def _fail(self, counter: str, text: str, *, away: bool = False) -> None:
        """Gives up the work in progress and pauses. A process is ended; a thread that hangs is left alone."""
        self.counters[counter] += 1
        self.counters["lost"] += len(self._pending)
        self._error = text
        self._generation += 1
        self._pending.clear()
        if self._finetuning:
            self._finetuning, self._result = False, FinetuneResult({}, text)
        if self._loading:
            self._loading, self._load_error = False, text
        if self._worker is not None and self._worker.kill():
            self._worker = None
        self._hung = self._worker is not None and counter == "hangs"
        if not self._hung:
            used, longest = (self._outages, _MAX_AWAY_S) if away else (self._restarts, _MAX_PAUSE_S)
            pause = min(_FIRST_PAUSE_S * 2.0 ** min(used, 16), longest)
            given_up = not away and used >= self._retry.restarts
            self._restart_due, self._pause_until = True, math.inf if given_up else self._clock() + pause
        self._outages = self._outages + 1 if away else 0

    def _restart_if_due(self) -> None:
        """After the pause, starts a worker with the last completed adapter, or uses the thread that is alive again."""
        if not self._restart_due or self._clock() < self._pause_until:
            return
        self._restart_due = False
        self._restarts += not self._outages
        self.counters["restarts"] += 1
        if self._worker is None:
            self._started, self._last_response = False, self._clock()
            self._worker = self._start(WorkerSetup(self._store, self._state()))
