"""Kernels in C++ for CPUs: compiled on first use for the processor at hand, kept, and handed to XLA.

Only where XLA's own code is far from what the processor can do. Without a compiler everything works as well, slower.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import jax

from covr_jax import runtime
from covr_jax.runtime.cache import cache_folder

_COMPILERS = ("c++", "g++", "clang++")
_FLAGS = ("-std=c++17", "-O3", "-shared", "-fPIC")
_SUM = ".sha256"
OFF = "COVR_JAX_NATIVE"  # "0" in the environment: do without
_LOCK = threading.Lock()
_LEFT_OUT: contextvars.ContextVar[bool] = contextvars.ContextVar("left_out", default=False)


class _NotBuilt(Exception):
    """Says why, in one line."""


@contextlib.contextmanager
def left_out() -> Iterator[None]:
    """Within it programs are traced without kernels, which other processes do not have."""
    token = _LEFT_OUT.set(True)
    try:
        yield
    finally:
        _LEFT_OUT.reset(token)


def targets(source: Path, *symbols: str) -> bool:
    """Make the XLA FFI handlers that a C++ file defines known as targets of ``jax.ffi.ffi_call``, under their names.

    Returns:
      Whether they are. False where programs run elsewhere than on CPU, where ``COVR_JAX_NATIVE`` is 0, within
      ``left_out``, and, with one warning, where they cannot be compiled.
    """
    if _LEFT_OUT.get():
        return False
    with _LOCK:
        return _targets(source, *symbols)


@functools.cache
def _targets(source: Path, *symbols: str) -> bool:
    if not runtime.on_cpu() or os.environ.get(OFF) == "0":
        return False
    try:
        library = ctypes.CDLL(str(_built(source)))
    except (_NotBuilt, OSError) as error:
        warnings.warn(f"{source.name} cannot be used, and updates on CPU take longer: {error}", stacklevel=3)
        return False
    for symbol in symbols:
        jax.ffi.register_ffi_target(symbol, jax.ffi.pycapsule(getattr(library, symbol)), platform="cpu")
    return True


def _built(source: Path) -> Path:
    """The library of a source and the headers beside it, compiled once for a compiler and a processor."""
    compiler = next(filter(None, map(shutil.which, _COMPILERS)), None)
    if compiler is None:
        raise _NotBuilt(f"no C++ compiler ({', '.join(_COMPILERS)}); install one, as in apt install g++")
    version = _output(compiler, "--version")
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    parts = (*texts, version, jax.__version__, platform.machine(), processor(), *_FLAGS)
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache_folder("native")
    library = folder / f"{source.stem}_{name}.so"
    if not _whole(library):
        with tempfile.TemporaryDirectory(dir=folder) as place:  # several processes may be at it
            fresh = Path(place) / library.name
            _output(compiler, *_FLAGS, *_tuning(), "-isystem", jax.ffi.include_dir(), str(source), "-o", str(fresh))
            written = fresh.with_suffix(_SUM)
            written.write_text(hashlib.sha256(fresh.read_bytes()).hexdigest())
            os.replace(fresh, library)
            os.replace(written, library.with_suffix(_SUM))
    return library


def _whole(library: Path) -> bool:
    """Whether a library is there as it was compiled; to load one that a full disk has cut would end the process."""
    try:
        return hashlib.sha256(library.read_bytes()).hexdigest() == library.with_suffix(_SUM).read_text()
    except (OSError, ValueError):
        return False


def _tuning() -> tuple[str, ...]:
    return ("-mcpu=native",) if platform.machine() in ("arm64", "aarch64") else ("-march=native",)


def processor() -> str:
    """Returns what tells processors apart that need different code: a home may be shared by several machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))


def _output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        raise _NotBuilt(f"{command[0]} says: {said}")
    return done.stdout
