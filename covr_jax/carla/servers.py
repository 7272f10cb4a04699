"""Where the server is, and servers that this process starts itself."""

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
_LOOK_S = 0.02
_ADDRESS = re.compile(r"([A-Za-z0-9._-]{1,253}):([0-9]{1,5})")
_PORTS = 3  # calls, sensors, and one that real servers keep
_ATTEMPTS = 5  # to find ports that nobody takes meanwhile


class Address(NamedTuple):
    """A server's calls; sensors are on the next port."""

    host: str
    port: int


def parse_address(text: str) -> Address:
    """``host:port``. Raises ValueError for anything else."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 0 < int(match[2]) < 65536:
        raise ValueError(f"{text!r} is no endpoint; give loopback or host:port")
    return Address(match[1], int(match[2]))


def child_environment() -> dict[str, str]:
    """The environment of a Python process that has to find this package.

    Start it with ``-P``, or what is called carla in its working directory comes before the client of that name.
    """
    paths = [_ROOT, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def loopback_command(map_name: str) -> list[str]:
    """Starts a loopback server that ends with this process."""
    options = ["--port", "{port}", "--map", map_name, "--parent", str(os.getpid())]
    return [sys.executable, "-P", "-m", "covr_jax.carla.loopback", *options]


class OwnServer:
    """A server in a process group of its own.

    Args:
      command: program and arguments, in which ``{port}`` stands for the port. start_s: how long it may take.
    """

    def __init__(self, command: Sequence[str], start_s: float):
        self._command, self._start_s = list(command), start_s
        self._process: subprocess.Popen[bytes] | None = None
        self.address = Address("127.0.0.1", 0)

    @property
    def group(self) -> int | None:
        """Its process group."""
        return self._process.pid if self._process else None

    def alive(self) -> bool:
        """Whether its process runs; it may hang nevertheless."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """A fresh server on free ports, listening. Raises OSError where it does not come up."""
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
                break  # it runs and does not listen: on other ports it would not either
        self.stop()
        raise OSError(f"{self._command[0]} ended or never listened on its port")

    def _listens(self) -> bool:
        end = time.monotonic() + self._start_s
        while self.alive() and time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(self.address, 1.0):
                return True
            time.sleep(_LOOK_S)
        return False

    def stop(self) -> None:
        """End its process group at once."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None


def child_output() -> int | None:
    """Where children write their complaints: nowhere, or to this process's own with COVR_CARLA_DEBUG set."""
    return None if os.environ.get("COVR_CARLA_DEBUG") else subprocess.DEVNULL


def _free_ports() -> int:
    """The first of some adjacent ports that nobody listens on now."""
    while True:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            first = 0
            for offset in range(_PORTS):
                probe = stack.enter_context(socket.socket())
                probe.bind(("127.0.0.1", first + offset if first else 0))
                first = first or probe.getsockname()[1]
            return first
