"""What differs by backend, in one place: process settings, compile options, loop shape. Never the mathematics."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import platform
import warnings
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import jax
from jax.experimental.xla_metadata import set_xla_metadata
from jax.lax import platform_dependent

from covr_jax.runtime.cache import cache_folder
from covr_jax.runtime.forks import refuse_forked

_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}
# glibc keeps no freed buffer of more than 64 MB, the largest heap of an arena: a program's are cut up below that.
_OFTEN = {"xla_multiheap_size_constraint_per_heap": 48 * 2**20}
_UNCACHED = "Error writing persistent compilation cache entry.*Multiple temp buffer allocations"
_QUICK = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}  # of a CPU's compiler


def configure(cache_dir: str | Path | None = None) -> None:
    """Set up the process; call it once, before the first array. Nothing in the package does this at import.

    Turns on JAX's persistent compilation cache (``$JAX_COMPILATION_CACHE_DIR``, else ``~/.cache/covr_jax/xla``) and, on
    glibc, keeps freed buffers of up to 64 MB in the process: getting them back from the kernel, page by page, costs an
    eighth of an update. Larger ones would stay if all threads shared one arena, but there compilers wait for each other
    and leave so many pieces behind that small updates take 1.6 times as long from then on.
    """
    directory = cache_dir or os.environ.get("JAX_COMPILATION_CACHE_DIR") or cache_folder("xla")
    jax.config.update("jax_compilation_cache_dir", str(directory))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # a run starts with a hundred small programs
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", 0)
    warnings.filterwarnings("ignore", _UNCACHED)
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # mallopt's parameter numbers
        libc.mallopt(mmap_threshold, 2**31 - 1)
        libc.mallopt(trim_threshold, 2**31 - 1)
        libc.mallopt(top_pad, 2**28)


def share_gpu(torch_share: float) -> float:
    """Leave a share of a GPU's memory to Torch; call it before the first array. The user's own variable goes first.

    Returns:
      The share that JAX takes.
    """
    left = os.environ.setdefault("XLA_PYTHON_CLIENT_MEM_FRACTION", f"{0.95 * (1.0 - torch_share):.3f}")
    return float(left)


_devices: ContextVar[list[Any] | None] = ContextVar("_devices", default=None)  # that programs are for; None: JAX's


@contextlib.contextmanager
def compiling_for(devices: list[Any]) -> Iterator[None]:
    """Programs made here are for devices that this process does not have, of ``jax.experimental.topologies``.

    Such programs are lowered with arguments that are placed on these devices, and cannot be run.
    """
    token = _devices.set(devices)
    try:
        yield
    finally:
        _devices.reset(token)


def devices() -> list[Any]:
    """The devices that programs are made for: those of JAX, outside of ``compiling_for``."""
    return _devices.get() or jax.devices()


def on_cpu() -> bool:
    """True when compiled programs run on the CPU backend."""
    made_for = _devices.get()
    return (made_for[0].platform if made_for else jax.default_backend()) == "cpu"


def jit(function: Callable[..., Any], *, rarely: bool = False, often: bool = False, **options: Any) -> Any:
    """``jax.jit`` with the backend's compile options.

    On CPU, XLA's YNNPACK path makes un-padded convolutions 4 to 8 times slower than the default one, so it is off.

    Args:
      function: the function.
      rarely: it is called a few times at most, so that a CPU's compiler need not make it fast; that takes a fifth of
        the time. Other last digits are possible.
      often: it is called for hours: on CPU all its buffers stay in the process between two calls. Where they are more
        than 48 MB, a later process compiles it again, since JAX cannot store such programs.
      **options: of ``jax.jit``.

    Raises:
      RuntimeError: in a process that was forked after JAX had started.
    """
    refuse_forked()
    if on_cpu():
        options["compiler_options"] = _CPU | (_QUICK if rarely else {}) | (_OFTEN if often else {})
    return jax.jit(function, **options)


def once(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of arrays as one compiled program that is dropped afterwards: for shapes that do not come again.

    Called as it is, each of its operations would be compiled for these shapes, and kept until the process ends.
    """
    return jit(lambda *arguments: function(*arguments), rarely=True)(*arguments)  # the program belongs to the lambda


def no_inline(function: Callable[..., Any]) -> Callable[..., Any]:
    """On CPU, keep XLA from compiling an elementwise function of arrays into every consumer of its result.

    Each would compute it again, and a transposition with such work inside takes four times as long as a plain one.
    """

    @jax.jit
    def alone(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable=None):  # what it calls itself is compiled into it as usual
            return function(*arguments)

    def called(*arguments: Any) -> Any:
        with set_xla_metadata(inlineable="false"):
            return alone(*arguments)

    # By the platform that the program is for, which an export need not share with this process.
    return functools.wraps(function)(lambda *arguments: platform_dependent(*arguments, cpu=called, default=function))


def peak_memory_bytes() -> int:
    """Peak bytes of the first device where it keeps count, else the process's peak resident set."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        return int(stats["peak_bytes_in_use"])
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
