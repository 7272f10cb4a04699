"""Scheduled faults of the loopback server: what real servers have been seen to do, once, at a given call.

``arm`` schedules a fault on a running server, ``--faults`` at its start. A remote procedure can hang, close its
connection, end the whole server, fail, or return a value of the wrong type. An image can be lost, late, sent twice, cut
in half, of an unknown sensor, or close its connection. After half an image or one of an unknown sensor the real client
ends with a segmentation fault.
"""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import NamedTuple

import msgpack

from covr_jax.carla.loopback import wire

RPC_KINDS = ("rpc-hang", "rpc-close", "server-exit", "rpc-error", "rpc-garbage")
PICTURE_KINDS = ("picture-lost", "picture-late", "picture-twice", "picture-cut", "picture-unknown", "stream-close")
KINDS = RPC_KINDS + PICTURE_KINDS

PICTURE = "picture"  # in place of a procedure's name: sending an image
ARM = "covr_fault"  # procedure that schedules a fault; CARLA has none of that name


class Fault(NamedTuple):
    """A fault at the ``after``-th next call, counted from 1, of the procedure ``call``, or image."""

    kind: str
    call: str = "tick_cue"
    after: int = 1
    seconds: float = 30.0  # duration of rpc-hang

    def checked(self) -> Fault:
        """Returns the fault, with PICTURE as its call where it concerns images.

        Raises:
          ValueError: the kind is unknown.
        """
        if self.kind not in KINDS:
            raise ValueError(f"unknown fault {self.kind!r}; choose from {', '.join(KINDS)}")
        return self._replace(call=PICTURE) if self.kind in PICTURE_KINDS else self


class FaultSchedule:
    """The scheduled faults and the number of calls so far, by procedure."""

    def __init__(self, faults: list[Fault]):
        self.calls: Counter[str] = Counter()
        self._pending: list[Fault] = []
        for fault in faults:
            self.add(fault)

    def add(self, fault: Fault) -> None:
        """Schedules another fault, counted from now."""
        fault = fault.checked()
        self._pending.append(fault._replace(after=self.calls[fault.call] + fault.after))

    def count(self, call: str) -> Fault | None:
        """Counts one call and returns the fault that is due with it."""
        self.calls[call] += 1
        for fault in self._pending:
            if fault.call == call and fault.after == self.calls[call]:
                self._pending.remove(fault)
                return fault
        return None


def parse_faults(text: str) -> list[Fault]:
    """Parses a JSON list of ``[kind, call, after, seconds]``; all but the kind may be left out."""
    return [Fault(*row).checked() for row in json.loads(text)]


def arm(port: int, fault: Fault, timeout_s: float = 5.0) -> None:
    """Schedules a fault on the loopback server at a port of this machine.

    Raises:
      OSError: no loopback server responds at the port.
    """
    with socket.create_connection(("127.0.0.1", port), timeout_s) as connection:
        connection.sendall(wire.pack([0, 1, ARM, [[False], *fault.checked()]]))
        unpacker = msgpack.Unpacker()
        while data := connection.recv(4096):
            unpacker.feed(data)
            for _, _, error, _ in unpacker:
                if error:
                    raise ConnectionError(error)
                return
    raise ConnectionError(f"the server on port {port} took no order")
