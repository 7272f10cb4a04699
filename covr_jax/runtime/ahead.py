"""Compiles programs in threads before they are called for the first time.

A call does not compile again what was compiled ahead for arguments of the same shapes: jit keeps both the trace and the
program. The caller traces: what two threads trace at once can become another program than before, which no cache has.
An error shows where the program is called.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from covr_jax.types import Preempted, Stop, never

_TOLD_AFTER_S = 2.0
_AT_WORK: set[Future[Any]] = set()  # of all records


def compiling() -> bool:
    """Whether compilers are at work, for whose end the interpreter waits when it exits."""
    return bool(_AT_WORK)


class Ahead:
    """Programs that are being compiled, by what they are for."""

    def __init__(self, tell: Callable[[str], None] = lambda text: None, stop: Stop = never):
        """Creates an empty record.

        Args:
          tell: is told what the caller waits for, where it takes a while.
          stop: asked while the caller waits.
        """
        self._tell, self._stop = tell, stop
        self._jobs: dict[str, Future[Any]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, name: str, program: Any, *arguments: Any) -> None:
        """Traces a jitted function and begins to compile it.

        Args:
          name: what the program is for, in words.
          program: as ``runtime.jit`` returned it.
          *arguments: of the first call, or their shapes.
        """
        try:
            lowered = program.lower(*arguments)
        except Exception:  # whatever it is, the call raises it again
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))  # the caller traces, then waits
        job = self._jobs[name] = self._pool.submit(lowered.compile)
        _AT_WORK.add(job)
        job.add_done_callback(_AT_WORK.discard)

    def wait(self, *names: str) -> None:
        """Waits for the programs of these names, as far as they were begun and nobody has waited for them yet.

        Raises:
          Preempted: ``stop`` gave a reason.
        """
        jobs = {name: job for name in names if (job := self._jobs.pop(name, None))}
        told, seconds = False, 0.0
        while jobs:
            if reason := self._stop():  # also where all are compiled: a signal may have come in the meantime
                raise Preempted(reason)
            if all(job.done() for job in jobs.values()):
                break
            if seconds >= _TOLD_AFTER_S and not told:
                told = True
                self._tell(f"compiling: {', '.join(name for name, job in jobs.items() if not job.done())}")
            wait(jobs.values(), timeout=0.2)
            seconds += 0.2
        if self._pool and not self._jobs:
            self._pool.shutdown(wait=False)
            self._pool = None
