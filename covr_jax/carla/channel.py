"""What the environment and its child process say to each other, and the line between them."""

from __future__ import annotations

import pickle
import socket
import struct
import time
from typing import Any, NamedTuple

from covr_jax.carla.reward import Tick
from covr_jax.types import Array


class SessionSetup(NamedTuple):
    """What a child needs to know. Times in seconds."""

    host: str
    port: int
    scenario: str
    profile: str
    image_size: int  # px, height and width of each camera
    max_ticks: int
    weather: str
    any_version: bool  # talk to a server of another version than the client's
    connect_s: float  # how long to look for the server
    load_s: float  # for a map
    call_s: float  # for any other call, and for a picture
    server_group: int | None  # process group to end when the parent is gone
    frame_skip: int | None = None  # ticks per agent step; None: the profile's


class Connect(NamedTuple):
    """Find the server and compare versions. Answer: ``WorkerInfo``."""

    setup: SessionSetup


class Load(NamedTuple):
    """Get the map, take over the clock, remove what others left behind. Answer: the map's name."""


class Reset(NamedTuple):
    """Start an episode. Answer: the picture u8[H,W,3]."""

    seed: int
    episode: int


class Step(NamedTuple):
    """One agent step. Answer: ``Stepped``."""

    steer: float  # [-1, 1]
    throttle: float  # [0, 1]
    brake: float  # [0, 1]


class Close(NamedTuple):
    """Remove everything, give the clock back and end. Answer: None."""


Request = Connect | Load | Reset | Step | Close


class WorkerInfo(NamedTuple):
    """Who is on the other side."""

    client_version: str
    server_version: str


class Stepped(NamedTuple):
    """An agent step as it was."""

    ticks: list[Tick]
    end: str | None  # why the episode is over, see ``reward.ended``
    image: Array  # u8[H,W,3]
    late: dict[str, int]  # pictures and collisions that came late so far, by name


class Failure(NamedTuple):
    """Instead of an answer; ``final`` where trying again cannot help."""

    kind: str
    text: str
    final: bool = False


class ChannelTimeout(Exception):
    """The other side said nothing in time."""


class Channel:
    """Pickled messages over a socket between a process and its own child, which therefore trust each other."""

    def __init__(self, line: socket.socket):
        self._line = line

    def send(self, message: Any, timeout_s: float | None = None) -> None:
        """Raises OSError where the other side is gone, ChannelTimeout where it does not read."""
        data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
        self._line.settimeout(timeout_s)
        try:
            self._line.sendall(struct.pack("<I", len(data)) + data)
        except TimeoutError:
            raise ChannelTimeout from None

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message. Raises EOFError or OSError where the other side is gone, ChannelTimeout where it is slow."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        (size,) = struct.unpack("<I", self._read(4, end))
        return pickle.loads(self._read(size, end))

    def _read(self, size: int, end: float | None) -> bytes:
        data = bytearray()
        while len(data) < size:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise ChannelTimeout
            self._line.settimeout(left)
            try:
                part = self._line.recv(min(size - len(data), 1 << 20))
            except TimeoutError:
                raise ChannelTimeout from None
            if not part:
                raise EOFError
            data += part
        return bytes(data)

    def close(self) -> None:
        """Let go of the line."""
        self._line.close()
