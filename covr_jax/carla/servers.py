"""Addresses of CARLA servers, and servers that this process starts itself."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_ROOT = str(Path(__file__).parents[2])
_POLL_S = 0.02
_ADDRESS = re.compile(r"([A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
_PORTS = 3  # calls, sensors, and one that real servers keep
_ATTEMPTS = 5  # another process may take the free ports before the server does


class Address(NamedTuple):
    """Host name and port of a server's remote calls; sensor data come from the next port."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """Parses ``host:port``.

    Raises:
      ValueError: the text has another form, or no such port exists.
    """
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError(f"{text!r} is no endpoint; give loopback or host:port, several with commas")
    return Address(match[1], int(match[2]))


def child_environment() -> dict[str, str]:
    """Environment variables of a Python process that imports this package.

    Start the process with ``-P``, or a module named carla in its working directory shadows the client.
    """
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def loopback_command(map_name: str) -> list[str]:
    """Command that starts a loopback server, which ends with this process."""
    options = ["--port", "{port}", "--map", map_name, "--parent", str(os.getpid())]
    return [sys.executable, "-P", "-m", "covr_jax.carla.loopback", *options]


class OwnServer:
    """A server of our own, in a process group of its own.

    Args:
      command: program and arguments, in which ``{port}`` stands for the port.
      start_s: time limit in s until it listens.
    """

    def __init__(self, command: Sequence[str], start_s: float):
        self._command, self._start_s = list(command), start_s
        self._process: subprocess.Popen[bytes] | None = None
        self.address = Address("127.0.0.1", 0)

    @property
    def group(self) -> int | None:
        """Process group of the server; None while there is none."""
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        """Whether the server's process runs; it may hang nevertheless."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Starts a new server on free ports and waits until it listens.

        Raises:
          OSError: the server ended or did not listen in time.
        """
        for _ in range(_ATTEMPTS):
            self.stop()
            self.address = Address("127.0.0.1", _free_ports())
            command = [part.replace("{port}", str(self.address.port)) for part in self._command]
            self._process = subprocess.Popen(
                command,
                env=child_environment(),
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=child_output(),
            )
            if self._listens():
                return
            if self.alive():
                break  # it runs and does not listen, so other ports would not help
        self.stop()
        raise OSError(f"{self._command[0]} ended or never listened on its port")

    def _listens(self) -> bool:
        end = time.monotonic() + self._start_s
        while self.alive() and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(self.address, 1.0):
                return True
            time.sleep(_POLL_S)
        return False

    def stop(self) -> None:
        """Kills the process group."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def child_output() -> int | None:
    """The children's standard error: discarded, or this process's own where COVR_CARLA_DEBUG is set."""
    return None if os.environ.get("COVR_CARLA_DEBUG") else subprocess.DEVNULL


def _free_ports() -> int:
    """Returns the first of ``_PORTS`` adjacent free ports."""
    while True:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            first = 0
            for offset in range(_PORTS):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", first + offset if first else 0))
                first = first or probe.getsockname()[1]
            return first
