"""What a run costs beside its mathematics: the programs that were compiled, and names for a profiler's time line."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"
_LOWERED = "/jax/core/compile/jaxpr_to_mlir_module_duration"
_SAVED = "/jax/compilation_cache/compile_time_saved_sec"
_HIT = "/jax/compilation_cache/cache_hits"


class CompileLog:
    """Counts the programs that this process compiles, from JAX's own events, until it is closed.

    Attributes:
      programs: compiled or read from the persistent cache. cached: those of them that were read.
      seconds: spent on it, lowering included and tracing not. saved: what the cached ones took when they were compiled,
        less the reading; ``seconds + saved`` is what an empty cache would cost.
    """

    def __init__(self) -> None:
        self.programs, self.cached = 0, 0
        self.seconds, self.saved = 0.0, 0.0
        jax.monitoring.register_event_duration_secs_listener(self._duration)  # pyright: ignore[reportArgumentType]
        jax.monitoring.register_event_listener(self._event)
        self._open = True

    def _duration(self, event: str, seconds: float, **_: Any) -> None:
        if event in (_COMPILED, _LOWERED):
            self.seconds += seconds
            self.programs += event == _COMPILED
        elif event == _SAVED:
            self.saved += seconds

    def _event(self, event: str, **_: Any) -> None:
        self.cached += event == _HIT

    @property
    def cold_seconds(self) -> float:
        """What the same programs take with an empty cache."""
        return self.seconds + max(self.saved, 0.0)

    def metrics(self) -> dict[str, float]:
        """For ``metrics.jsonl``."""
        return {
            "time/compile_s": self.seconds,
            "time/compile_cold_s": self.cold_seconds,
            "compile/programs": self.programs,
            "compile/cached": self.cached,
        }

    def __str__(self) -> str:
        return (
            f"compiled {self.programs} programs in {self.seconds:.1f} s, {self.cached} of them from the cache"
            f" ({self.cold_seconds:.1f} s without it)"
        )

    def close(self) -> None:
        """Stop counting; a second call does nothing."""
        if self._open:
            jax.monitoring.unregister_event_duration_listener(self._duration)  # pyright: ignore[reportArgumentType]
            jax.monitoring.unregister_event_listener(self._event)
        self._open = False

    def __enter__(self) -> CompileLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextlib.contextmanager
def cache_hits() -> Iterator[list[str]]:
    """Gives a list that this thread's programs are noted in, one entry each, that come from JAX's cache."""
    thread, hits = threading.get_ident(), []

    def note(event: str, **_: Any) -> None:
        if event == _HIT and threading.get_ident() == thread:
            hits.append(event)

    jax.monitoring.register_event_listener(note)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(note)


def chunk_annotation(number: int) -> jax.profiler.StepTraceAnnotation:
    """Returns a context manager that marks one chunk as a step in XProf's overview."""
    return jax.profiler.StepTraceAnnotation("chunk", step_num=number)
