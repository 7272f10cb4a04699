"""Several processes that train one run together: how they meet, and what they must do alike.

Each runs the same program on the same options, so that all of them make the same decisions from the same numbers. What
one process alone can know, such as a signal, is told to the others first: ``every``, ``agree_on`` and ``fetch`` are
calls that all of them make at the same point. Without ``join`` there is one process, the first, and nothing is sent.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils

from covr_jax.config import ConfigError
from covr_jax.runtime.errors import one_line
from covr_jax.types import Diverged, HostLost, Preempted, Stop

AUTO = "auto"  # address: what SLURM, Open MPI or Cloud TPU say in the environment
_MEET_S = 300  # within which all processes must have started
_HEARTBEAT_S = 60  # without a sign of a process after which JAX ends the others, where no collective has failed before
_LEAVE_S = 600  # for which processes that are done wait for the others
_TEXT_BYTES = 64  # of what ``every`` sends
_LOST = ("Gloo", "UNAVAILABLE", "DEADLINE_EXCEEDED", "ABORTED")  # in errors of collectives whose other side is gone


@contextlib.contextmanager
def joined(address: str | None, number: int | None, index: int | None) -> Iterator[None]:
    """Meets the other processes, and leaves together with them; call it before the first array.

    An error that others do not see ends this process without waiting for them: they notice that it is gone.

    Args:
      address: host:port of the first process, ``AUTO``, or None for a run of one process.
      number: of processes; None with ``AUTO``.
      index: of this process; None with ``AUTO``.

    Raises:
      ConfigError: they do not meet.
      HostLost: another process has ended.
    """
    if address is None:
        yield
        return
    _join(address, number, index)
    try:
        yield
    except (Preempted, Diverged):  # all processes raise it
        jax.distributed.shutdown()
        raise
    except Exception as error:  # JAX has no single class for it
        if tells_loss(error):
            raise HostLost(f"another process of the run is gone ({one_line(error):.120})") from error
        raise
    jax.distributed.shutdown()


def _join(address: str, number: int | None, index: int | None) -> None:
    automatic = address == AUTO
    try:
        jax.distributed.initialize(
            None if automatic else address,
            number,
            index,
            cluster_detection_method=None if automatic else "deactivate",
            initialization_timeout=_MEET_S,
            heartbeat_timeout_seconds=_HEARTBEAT_S,
            shutdown_timeout_seconds=_LEAVE_S,
        )
    except (ValueError, RuntimeError) as error:
        remedy = "start all of them with the same address and --num-hosts, and an own --host-index each"
        if automatic:
            remedy = "without SLURM, Open MPI or Cloud TPU give --hosts HOST:PORT, --num-hosts and --host-index"
        raise ConfigError(
            f"the processes of --hosts {address} do not meet: {one_line(error):.200}; {remedy}"
        ) from error


def tells_loss(error: Exception) -> bool:
    """Whether an error comes from a collective whose other side is gone."""
    return several() and any(word in str(error) for word in _LOST)


@contextlib.contextmanager
def unheld() -> Iterator[None]:
    """Ends a process that leaves others alone, after its error is shown: the interpreter's exit would wait for them."""
    try:
        yield
    except BaseException as error:
        if not several():
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):
                stream.flush()
        os._exit(error.code if isinstance(error, SystemExit) and isinstance(error.code, int) else 1)


def several() -> bool:
    """Whether other processes train the same run."""
    return jax.distributed.is_initialized()


def count() -> int:
    """Processes of the run."""
    return jax.process_count() if several() else 1


def is_first() -> bool:
    """Whether this process writes the run's files and shows its progress."""
    return not several() or jax.process_index() == 0


def every(text: str = "") -> list[str]:
    """What every process says, by its index; the first 64 bytes of it. Returns when all have said something."""
    if not several():
        return [text]
    said = np.frombuffer(text.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES, b"\0"), np.uint8)
    return [row.tobytes().rstrip(b"\0").decode(errors="replace") for row in multihost_utils.process_allgather(said)]


def as_first(choice: bool) -> bool:
    """What the first process chooses, where only what it sees counts."""
    return every(str(choice))[0] == str(True)


def agree_on(stop: Stop) -> Stop:
    """A ``Stop`` that gives all processes a reason as soon as one of them has one."""
    return (lambda: next(filter(None, every(stop() or "")), None)) if several() else stop


def fetch(array: Any) -> np.ndarray:
    """The values of a small array, in every process: what other processes hold is sent to all devices."""
    if not isinstance(array, Array) or array.is_fully_addressable or array.is_fully_replicated:
        return np.asarray(array)
    return multihost_utils.process_allgather(array, tiled=True)
