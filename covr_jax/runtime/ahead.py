"""Compiles programs in threads before they are called for the first time, or loads those that are kept.

A call does not compile again what was compiled ahead for arguments of the same shapes: jit keeps both the trace and the
program. The caller traces: what two threads trace at once can become another program than before, which no cache has.
An error of the compiler shows where the program is called.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, Any

from covr_jax.types import Preempted, Stop, never

if TYPE_CHECKING:  # a command that ends early asks ``compiling`` without having loaded JAX
    import jax

    from covr_jax.runtime.kept import Kept, Loader, Program

_TOLD_AFTER_S = 2.0
_AT_WORK: set[Future[Any]] = set()  # of all records


def compiling() -> bool:
    """Whether compilers are at work, for whose end the interpreter waits when it exits."""
    return bool(_AT_WORK)


class Ahead:
    """Programs that are being compiled, by what they are for."""

    def __init__(self, tell: Callable[[str], None] = lambda text: None, stop: Stop = never, kept: Kept | None = None):
        """Creates an empty record.

        Args:
          tell: is told what the caller waits for, where it takes a while.
          stop: asked while the caller waits.
          kept: programs of earlier processes; those that are missing are added.
        """
        self._tell, self._stop, self._kept = tell, stop, kept
        self._jobs: dict[str, Future[Any]] = {}
        self._pool: ThreadPoolExecutor | None = None

    def begin(self, name: str, program: Program, *arguments: Any) -> Any:
        """Traces a program and begins to compile it, or begins to load it.

        Args:
          name: what the program is for, in words.
          program: is called later.
          *arguments: of the first call, or their shapes.

        Returns:
          The shapes of its result.
        """
        every = (program.given, arguments)
        if self._kept and (found := self._kept.load(name, every)):
            shapes, loader = found
            self._submit(name, self._load, loader, program, arguments)
            return shapes
        shapes = program.shapes(*arguments)
        lowered = program.lower(*arguments)
        self._submit(name, self._compile, lowered, name, every, shapes)
        return shapes

    def _submit(self, name: str, work: Callable[..., None], *arguments: Any) -> None:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(len(os.sched_getaffinity(0)))  # the caller traces, then waits
        job = self._jobs[name] = self._pool.submit(work, *arguments)
        _AT_WORK.add(job)
        job.add_done_callback(_AT_WORK.discard)

    @staticmethod
    def _load(loader: Loader, program: Program, arguments: tuple[Any, ...]) -> None:
        with contextlib.suppress(Exception):  # whatever it is, the call traces and compiles
            program.hand(loader(), *arguments)

    def _compile(self, lowered: jax.stages.Lowered, name: str, arguments: Any, shapes: Any) -> None:
        from covr_jax.runtime.profiling import cache_hits

        with cache_hits() as hits:
            program = lowered.compile()
        if self._kept and not hits:  # what XLA has read itself cannot be written: the functions would be missing
            self._kept.save(name, arguments, shapes, program, lowered.as_text())

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
