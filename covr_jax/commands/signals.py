"""Signals that ask a run to stop: it finishes what it is at, writes a checkpoint and exits; a second one ends it.

A launcher asks in another way: schedulers send their signals to the launcher and to its runs, and what it passed on
would be a second one. It closes the run's standard input, which happens also where it is killed.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from covr_jax.runtime.signals import STOPPING

STOP_AT_EOF = "COVR_STOP_AT_EOF"  # environment variable: 1 where the end of standard input asks the process to stop


class StopRequest:
    """Why the process was asked to stop; call it to learn the signal's name, or None.

    Args:
      launcher: file descriptor whose end is a request too; None: there is no launcher.
    """

    def __init__(self, launcher: int | None = None) -> None:
        self._name: str | None = None
        self._launcher = launcher

    def __call__(self) -> str | None:
        """The name of the signal, or "its launcher"; None while nobody asked."""
        if self._name is None and self._launcher is not None and _at_end(self._launcher):
            self._name = "its launcher"
        return self._name

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Handler of the first signal; afterwards each signal does what it does by default."""
        del frame
        self._name = signal.Signals(number).name
        for other in STOPPING:
            signal.signal(other, signal.default_int_handler if other == signal.SIGINT else signal.SIG_DFL)
        silence_lost_terminals(1, 2)
        text = f"\n{self._name}: stopping after this chunk; once more ends the process at once\n"
        with contextlib.suppress(OSError):  # not print: the signal may have come in the middle of one
            os.write(1, text.encode())


def silence_lost_terminals(*descriptors: int) -> None:
    """Sends what is written to terminals that have gone, which is why SIGHUP comes, to nowhere."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(descriptor).st_mode) and not os.isatty(descriptor):
                os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)


def _at_end(descriptor: int) -> bool:
    """Whether a pipe's other end is closed; what was written into it is dropped."""
    return bool(select.select([descriptor], [], [], 0)[0]) and not os.read(descriptor, 4096)


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """While the context is open, the first of ``STOPPING`` is a request, and the end of input with ``STOP_AT_EOF``."""
    request = StopRequest(0 if os.environ.get(STOP_AT_EOF) == "1" else None)
    before = {number: signal.signal(number, request.handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
