"""What depends on the process and its devices: backend, CPU kernels, memory, profiling, DLPack, random streams."""

from covr_jax.runtime.backend import configure, jit, no_inline, on_cpu, peak_memory_bytes, share_gpu

__all__ = [
    "configure",
    "jit",
    "no_inline",
    "on_cpu",
    "peak_memory_bytes",
    "share_gpu",
]
