"""Messages between the environment and its child process, and the socket that carries them. Times in seconds."""

from __future__ import annotations

import pickle
import socket
import struct
import time
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from covr_jax.carla.reward import Tick


class SessionSetup(NamedTuple):
    """Settings of one session of the client."""

    host: str
    port: int
    scenario: str
    profile: str
    image_size: int  # px, height and width of each camera
    max_ticks: int
    weather: str
    any_version: bool  # accept a server of another version than the client's
    connect_s: float  # time limit to find the server
    load_s: float  # time limit to load a map
    call_s: float  # time limit of any other call, and of a camera image
    server_group: int | None  # process group to kill when the parent has died
    frame_skip: int | None = None  # ticks per agent step; None: the profile's


class Connect(NamedTuple):
    """Finds the server and compares versions. Response: ``WorkerInfo``."""

    setup: SessionSetup


class Load(NamedTuple):
    """Loads the map, takes over the clock, removes actors of earlier clients. Response: the map's name."""


class Reset(NamedTuple):
    """Starts an episode. Response: the first image u8[H,W,3]."""

    seed: int
    episode: int


class Step(NamedTuple):
    """Runs one agent step. Response: ``StepResult``."""

    steer: float  # [-1, 1]
    throttle: float  # [0, 1]
    brake: float  # [0, 1]


class Close(NamedTuple):
    """Removes all own actors, gives the clock back and ends the child. Response: None."""


Request = Connect | Load | Reset | Step | Close


class WorkerInfo(NamedTuple):
    """Versions of the client and of the server that it is connected to."""

    client_version: str
    server_version: str


class StepResult(NamedTuple):
    """The result of one agent step."""

    ticks: list[Tick]
    end: str | None  # reason why the episode is over, see ``reward.end_reason``; None while it goes on
    image: UInt8[np.ndarray, "H W 3"]
    late: dict[str, int]  # number of images (key "pictures") and of collisions that came late since the child started


class Failure(NamedTuple):
    """The response to a request that failed."""

    kind: str  # one word
    text: str  # one line
    final: bool = False  # a new attempt cannot succeed


class ChannelTimeout(Exception):
    """The other process neither read nor wrote in time."""


class Channel:
    """Pickled messages over a socket between a process and its own child, which therefore trust each other."""

    def __init__(self, connection: socket.socket):
        self._socket = connection

    def send(self, message: Any, timeout_s: float | None = None) -> None:
        """Sends one message.

        Raises:
          OSError: the other process has closed the socket.
          ChannelTimeout: the other process did not read in time.
        """
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.sendall(struct.pack("<I", len(data)) + data)
        except TimeoutError:
            raise ChannelTimeout from None

    def receive(self, timeout_s: float | None = None) -> Any:
        """Returns the next message.

        Raises:
          EOFError, OSError: the other process has closed the socket.
          ChannelTimeout: no complete message came in time.
        """
        end = None if timeout_s is None else time.monotonic() + timeout_s
        (size,) = struct.unpack("<I", self._read(4, end))
        return pickle.loads(self._read(size, end))

    def _read(self, size: int, end: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise ChannelTimeout
            self._socket.settimeout(left)
            try:
                part = self._socket.recv(min(size - len(data), 1 << 20))
            except TimeoutError:
                raise ChannelTimeout from None
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()
