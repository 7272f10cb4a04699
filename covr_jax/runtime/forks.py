"""Processes that were forked after JAX had started: they have none of its threads, and would wait for them for ever."""

from __future__ import annotations

import os
import sys

_REFUSAL = (
    "this process was forked after JAX had started, and JAX hangs in it; start it by"
    " multiprocessing.get_context('spawn') or 'forkserver'"
)
_starting_child = False  # JAX runs in the process that forks
_forked = False  # JAX ran in a process that this one was forked from


def _before() -> None:
    global _starting_child
    bridge = sys.modules.get("jax._src.xla_bridge")  # asking must not import JAX
    _starting_child = bridge is not None and bridge.backends_are_initialized()


def _in_child() -> None:
    global _forked
    _forked = _forked or _starting_child


# Not after the fork: the child might wait for a lock of the backends that a thread of the parent held.
os.register_at_fork(before=_before, after_in_child=_in_child)


def refuse_forked() -> None:
    """Refuses a process in which JAX hangs; call it before JAX computes.

    Raises:
      RuntimeError: the process was forked after JAX had started; one line that says how to start it.
    """
    if _forked:
        raise RuntimeError(_REFUSAL)
