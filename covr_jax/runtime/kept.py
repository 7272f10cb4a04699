"""Programs that a later process takes as they are, without tracing them again.

JAX's cache saves a start the compiler's time; but a program is traced before it can be looked up there, which takes
several seconds for a picture and half a minute for some physics. Here programs are looked up by what they are made
of: options, source files, settings of JAX, processor and devices. Where any of these differs, the program is traced.

The files are pickles in the user's own cache, which JAX's executables beside them are trusted in as much.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import re
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib
from jax.experimental import serialize_executable

import covr_jax
from covr_jax.runtime.cpu_kernels import processor

OFF = "COVR_JAX_KEPT"  # "0" in the environment: trace all programs
_SETTINGS = ("XLA_", "JAX_", "TF_", "LIBTPU_", "COVR_JAX_", "CUDA_", "NVIDIA_", "ROCM_")  # environment variables
_KINDS = 50  # of programs that are kept; the ones that were used last
_DIGEST = hashlib.sha256().digest_size

# What a program may call beside XLA: LAPACK and the vendors' libraries by JAX, the package's own kernels. Others may
# want to be made known in each process, which crashes where it calls one that is not.
_LIBRARIES = ("lapack_", "cu_", "cublas", "cudnn", "cusolver", "cusparse", "hip", "covr_")
_CALL = re.compile(r"custom_call @(\w+)")

_keeping = False

Loader = Callable[[], jax.stages.Compiled]


class Program:
    """A jitted function, its first arguments given, that can be handed a compiled program in place of its own."""

    def __init__(self, jitted: Any, *given: Any, static_argnums: tuple[int, ...] = ()):
        """Wraps a function.

        Args:
          jitted: of ``runtime.jit``.
          *given: its first arguments.
          static_argnums: those of its arguments, among all of them.
        """
        self.given, self._jitted, self._static_argnums = given, jitted, static_argnums
        self._handed: dict[tuple[Any, ...], jax.stages.Compiled] = {}

    def hand(self, program: jax.stages.Compiled, *arguments: Any) -> None:
        """Gives the program of the calls with these shapes and static arguments."""
        self._handed[self._split(arguments)[1]] = program

    def _split(self, arguments: tuple[Any, ...]) -> tuple[list[Any], tuple[Any, ...]]:
        """All arguments: the arrays, and what is static."""
        every = (*self.given, *arguments)
        static = tuple(every[number] for number in self._static_argnums)
        return [one for number, one in enumerate(every) if number not in self._static_argnums], static

    def __call__(self, *arguments: Any) -> Any:
        """Calls the function."""
        if self._handed:
            arrays, static = self._split(arguments)
            program = self._handed.get(static)
            if program is not None:
                try:
                    return program(*arrays)
                except (TypeError, ValueError):  # other shapes or places, or the caller is being traced
                    pass
        return self._jitted(*self.given, *arguments)

    def giving(self, *given: Any) -> Program:
        """The same function with other first arguments."""
        return Program(self._jitted, *given, static_argnums=self._static_argnums)

    def shapes(self, *arguments: Any) -> Any:
        """Returns the shapes of the result, as ``jax.eval_shape`` does."""
        return self._jitted.eval_shape(*self.given, *arguments)

    def lower(self, *arguments: Any) -> jax.stages.Lowered:
        """As ``lower`` of ``jax.jit``'s functions."""
        return self._jitted.lower(*self.given, *arguments)


class Kept:
    """The programs that are kept of one kind of run."""

    def __init__(self, folder: Path):
        """Opens the folder, which is made when a program is saved; others are removed once there are many."""
        self._folder = folder

    def load(self, name: str, arguments: Any) -> tuple[Any, Loader] | None:
        """Looks up a program.

        Args:
          name: what it is for.
          arguments: of its call, or their shapes.

        Returns:
          The shapes of its result, and what makes the program, which may take a while and fail. None: it is not kept.
        """
        path = self._path(name, arguments)
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST:]).digest() != content[:_DIGEST]:
                return None
            shapes, *parts = pickle.loads(content[_DIGEST:])
            os.utime(self._folder)
        except Exception:  # not there, of a class that has moved, cut short: it is traced, and saved again
            return None
        places = jax.local_devices()[:1]
        return shapes, lambda: serialize_executable.deserialize_and_load(*parts, execution_devices=places)

    def save(self, name: str, arguments: Any, shapes: Any, program: jax.stages.Compiled, text: str) -> None:
        """Keeps a program; one that calls the host or a library of others, or that JAX cannot store, is left out.

        Args:
          name: as of ``load``.
          arguments: the same.
          shapes: of its result.
          program: compiled.
          text: as it was lowered.
        """
        if not all(target.startswith(_LIBRARIES) for target in _CALL.findall(text)):
            return
        try:
            content = pickle.dumps((shapes, *serialize_executable.serialize(program)))
            fresh = not self._folder.exists()
            self._folder.mkdir(parents=True, exist_ok=True)
            if fresh:
                self._make_room()
            with tempfile.TemporaryDirectory(dir=self._folder) as place:  # several processes may be at it
                written = Path(place) / name
                written.write_bytes(hashlib.sha256(content).digest() + content)
                os.replace(written, self._path(name, arguments))
        except Exception:  # whatever it is, a later process traces it
            return

    def _path(self, name: str, arguments: Any) -> Path:
        leaves, structure = jax.tree.flatten(arguments)
        shapes = [f"{x.dtype}{x.shape}" if hasattr(x, "dtype") else repr(x) for x in leaves]
        text = f"{name} {structure} {shapes}"
        return self._folder / hashlib.sha256(text.encode()).hexdigest()[:32]

    def _make_room(self) -> None:
        others = sorted(self._folder.parent.iterdir(), key=lambda folder: folder.stat().st_mtime, reverse=True)
        for folder in others[_KINDS:]:
            shutil.rmtree(folder, ignore_errors=True)


def keep_programs() -> None:
    """From now on this process keeps programs, beside JAX's cache: for commands, which run what is in files.

    Functions that were replaced while a process runs have no file that tells it.
    """
    global _keeping
    _keeping = True


def open_kept(*facts: Any) -> Kept | None:
    """Opens what is kept of runs that these facts, and what else programs are made of, are true of.

    Args:
      *facts: whatever programs differ by, with a ``repr`` that says it.

    Returns:
      None before ``keep_programs``, without a folder for JAX's cache, and where ``COVR_JAX_KEPT`` is 0.
    """
    folder = jax.config.values["jax_compilation_cache_dir"]
    if not _keeping or not folder or "://" in folder or os.environ.get(OFF) == "0":
        return None
    jax.jit(jax.lax.linalg.cholesky).lower(jax.ShapeDtypeStruct((1, 1), jnp.float32))  # which loads LAPACK
    whole = repr((facts, _machine(), _settings(), _sources()))
    return Kept(Path(folder) / "programs" / hashlib.sha256(whole.encode()).hexdigest()[:32])


def _machine() -> tuple[Any, ...]:
    backend = jax.devices()[0].client
    kinds = [device.device_kind for device in jax.devices()]
    versions = jax.__version__, jaxlib.__version__, backend.platform, backend.platform_version, sys.version
    return *versions, kinds, platform.machine(), processor(), len(os.sched_getaffinity(0))


def _settings() -> tuple[Any, ...]:
    variables = sorted(item for item in os.environ.items() if item[0].startswith(_SETTINGS))
    return variables, sorted((name, repr(value)) for name, value in jax.config.values.items())


def _sources() -> list[tuple[str, int, int]]:
    """Path, size and time of change of every file that programs can come from, but for Python's own."""
    own = [path for path in Path(covr_jax.__file__).parent.rglob("*") if path.suffix != ".pyc"]
    standard = sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib")
    packages = sysconfig.get_path("purelib"), sysconfig.get_path("platlib")
    files = {str(path) for path in own if path.is_file()}
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None)
        if path and (path.startswith(packages) or not path.startswith(standard)):
            files.add(path)
    found = []
    for path in sorted(files):
        try:
            status = os.stat(path)
        except OSError:
            continue
        found.append((path, status.st_size, status.st_mtime_ns))
    return found
