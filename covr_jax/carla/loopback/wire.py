"""The wire format of the 0.9.16 client. Lengths in m, angles in degrees, CARLA's left-handed axes (y to the right).

Remote calls are msgpack-rpc: requests ``[0, id, name, [[asynchronous], *arguments]]``, replies
``[1, id, error, result]``.
Sensor data have their own port: the client sends a u32 stream number, then reads packets ``u32 size, payload``.
"""

from __future__ import annotations

import struct
from typing import Any

import msgpack

CLIENT_VERSION = "0.9.16"

# Indices in the client's table of sensors.
COLLISION, CAMERA, WORLD = 0, 13, 17
WORLD_STREAM = 1
# Indices in the client's table of batch commands.
SPAWN, DESTROY, VEHICLE_CONTROL, WALKER_CONTROL, AUTOPILOT = 0, 1, 2, 4, 16
# Labels of the scenery.
POLES, VEGETATION, ANY = 6, 9, 255
# Types of blueprint attributes.
BOOL, INT, FLOAT, STRING, COLOR = range(1, 6)

_ACTOR_STATE_BYTES = 119
_TCP, _IPV4 = 1, 1

Transform = list[list[float]]  # [[x, y, z], [pitch, yaw, roll]]


def pack(message: Any) -> bytes:
    """Serialises a message as msgpack."""
    packed: Any = msgpack.packb(message)  # its type stubs allow None
    return packed


def value(result: Any) -> list[Any]:
    """Reply of a procedure that returns a value."""
    return [[1, result]]


def value_error(message: str) -> list[Any]:
    """Failure of a procedure that returns a value; the client raises RuntimeError."""
    return [[0, [message]]]


def void() -> list[Any]:
    """Reply of a procedure that returns nothing."""
    return [[False]]


def void_error(message: str) -> list[Any]:
    """Failure of a procedure that returns nothing."""
    return [[True, [message]]]


def blueprint(number: int, name: str, attributes: list[tuple[str, int, str]]) -> list[Any]:
    """A blueprint, all attributes of which may be changed; they have no recommended values.

    Args:
      number: id of the blueprint.
      name: its name, parts separated by dots.
      attributes: (name, type, default) of each attribute.
    """
    rows = [[key, kind, text, [], True, False] for key, kind, text in attributes]
    return [number, name, name.replace(".", ","), rows]


def scenery(number: int, name: str, label: int, transform: Transform) -> list[Any]:
    """An object of the map: pose, box (centre, half sizes, rotation, actor), u64 number, name, label."""
    return [transform, [[0.0, 0.0, 2.0], [0.2, 0.2, 2.0], [0.0] * 3, 0], number, name, label]


def token(stream: int, port: int) -> bytes:
    """Address of a stream: u32 stream, u16 port, u8 protocol, u8 address kind, 16 bytes of address."""
    return struct.pack("<IHBB", stream, port, _TCP, _IPV4) + bytes((127, 0, 0, 1)) + bytes(12)


def header(sensor: int, frame: int, elapsed: float, transform: Transform) -> bytes:
    """Header of every payload: u64 sensor, u64 frame, f64 elapsed seconds, f32[6] pose."""
    return struct.pack("<QQd6f", sensor, frame, elapsed, *transform[0], *transform[1])


def packet(payload: bytes) -> bytes:
    """A payload with its size in front."""
    return struct.pack("<I", len(payload)) + payload


def world_body(episode: int, wall: float, delta: float, actors: list[bytes]) -> bytes:
    """The state of all actors: u64 episode, f64 wall clock, f32 step, i32[3] origin, u32 flags, then the records."""
    return struct.pack("<Qdf3iI", episode, wall, delta, 0, 0, 0, 0) + b"".join(actors)


def actor_state(number: int, transform: Transform, velocity: list[float], extra: bytes) -> bytes:
    """Record of one actor: u32 id, u8 active, pose, velocity, 24 bytes of rates that stay 0, then ``extra``."""
    state = struct.pack("<IB9f", number, 1, *transform[0], *transform[1], *velocity) + bytes(24) + extra
    return state.ljust(_ACTOR_STATE_BYTES, b"\0")


def vehicle_extra(control: list[Any], speed_limit: float) -> bytes:
    """Part of a vehicle's record: throttle, steer, brake, three switches, gear; limit in km/h."""
    return struct.pack("<3f3?if", *control[:7], speed_limit)


def walker_extra(control: list[Any]) -> bytes:
    """Part of a walker's record: direction, speed in m/s, jump."""
    return struct.pack("<4f?", *control[0], control[1], control[2])


def camera_body(width: int, height: int, fov: float, bgra: bytes) -> bytes:
    """Body of an image: u32 width, u32 height, f32 field of view, u8[H,W,4]."""
    return struct.pack("<IIf", width, height, fov) + bgra
