"""Faults on order: what a real server has been seen to do to its client, once, at a given moment.

A running loopback server is told by ``arm``, or with ``--faults`` when it starts. Remote procedures can hang, lose
their connection, take the whole server along, fail, or answer something of the wrong type; pictures can be lost, late,
sent twice, cut in half, of an unknown sensor, or lose their connection. Half a picture and an unknown sensor make the
real client's process end with a segmentation fault.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import NamedTuple

import msgpack

RPC_KINDS = ("rpc-hang", "rpc-close", "server-exit", "rpc-error", "rpc-garbage")
PICTURE_KINDS = ("picture-lost", "picture-late", "picture-twice", "picture-cut", "picture-unknown", "stream-close")
KINDS = RPC_KINDS + PICTURE_KINDS

PICTURE = "picture"  # stands for the name of a procedure
ARM = "covr_fault"  # the procedure by which a running server takes orders; CARLA has none of that name


class Fault(NamedTuple):
    """Strikes at the ``after``-th next call of ``call``, or picture, counted from 1."""

    kind: str
    call: str = "tick_cue"
    after: int = 1
    seconds: float = 30.0  # how long rpc-hang hangs

    def checked(self) -> Fault:
        """Itself, with PICTURE as its call where it concerns pictures. Raises ValueError for an unknown kind."""
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; choose from {', '.join(KINDS)}")
        return self._replace(call=PICTURE) if self.kind in PICTURE_KINDS else self


class Script:
    """The faults to come and the calls so far."""

    def __init__(self, faults: list[Fault]):
        self.calls: Counter[str] = Counter()
        self._waiting: list[Fault] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Another fault, counted from now."""
        fault = fault.checked()
        self._waiting.append(fault._replace(after=self.calls[fault.call] + fault.after))

    def strike(self, call: str) -> Fault | None:
        """Count one call and return the fault that is due with it."""
        self.calls[call] += 1
        for fault in self._waiting:
            if fault.call == call and fault.after == self.calls[call]:
                self._waiting.remove(fault)
                return fault
        return None


def parse(text: str) -> list[Fault]:
    """Faults from JSON: a list of ``[kind, call, after, seconds]``, of which all but the kind may be left out."""
    return [Fault(*row).checked() for row in json.loads(text)]


def arm(port: int, fault: Fault, timeout_s: float = 5.0) -> None:
    """Order a fault from the loopback server on this machine's ``port``. Raises OSError where none answers."""
    with socket.create_connection(("127.0.0.1", port), timeout_s) as line:
        line.sendall(msgpack.packb([0, 1, ARM, [[False], *fault.checked()]]))
        unpacker = msgpack.Unpacker()
        while data := line.recv(4096):
            unpacker.feed(data)
            for _, _, error, _ in unpacker:
                if error:
                    raise ConnectionError(error)
                return
    raise ConnectionError(f"the server on port {port} took no order")
