"""What depends on the process and its devices: backend, CPU kernels, memory, profiling, DLPack, random streams.

Names of ``backend`` are imported on first use: a command line that cannot be parsed does not wait for JAX.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from covr_jax.runtime.forks import refuse_forked

if TYPE_CHECKING:
    from covr_jax.runtime.backend import configure, jit, no_inline, on_cpu, peak_memory_bytes, share_gpu

__all__ = [
    "configure",
    "jit",
    "no_inline",
    "on_cpu",
    "peak_memory_bytes",
    "refuse_forked",
    "share_gpu",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("covr_jax.runtime.backend"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
