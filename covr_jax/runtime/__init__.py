"""What depends on the process and its devices: backend, CPU kernels, memory, profiling, DLPack, random streams.

Names of ``backend`` are imported on first use: a command line that cannot be parsed does not wait for JAX.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from covr_jax.lazy import lazy_names
from covr_jax.runtime.forks import refuse_forked

if TYPE_CHECKING:
    from covr_jax.runtime.backend import (
        compiling_for,
        configure,
        devices,
        jit,
        no_inline,
        on_cpu,
        once,
        peak_memory_bytes,
        share_gpu,
    )

__all__ = [
    "compiling_for",
    "configure",
    "devices",
    "jit",
    "no_inline",
    "on_cpu",
    "once",
    "peak_memory_bytes",
    "refuse_forked",
    "share_gpu",
]
__getattr__ = lazy_names(
    __name__,
    {"backend": tuple(name for name in __all__ if name != "refuse_forked")},
)
