"""Signals that ask a run to stop."""

from __future__ import annotations

import signal

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)  # schedulers, Ctrl-C, SLURM, a lost terminal


def leave_to_parent() -> None:
    """Ignores the signals in a child of a run: schedulers and terminals send them to all processes of it.

    The parent finishes what it is at, for which it needs the child, and then ends it.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
