"""Signals that ask a run to stop: it finishes what it is at, writes a checkpoint and exits; a second one ends it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from covr_jax.runtime.signals import STOPPING


class StopRequest:
    """Why the process was asked to stop; call it to learn the signal's name, or None."""

    def __init__(self) -> None:
        self._name: str | None = None

    def __call__(self) -> str | None:
        """The name of the signal; None while nobody asked."""
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


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """While the context is open, the first of ``STOPPING`` is a request."""
    request = StopRequest()
    before = {number: signal.signal(number, request.handle) for number in STOPPING}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
