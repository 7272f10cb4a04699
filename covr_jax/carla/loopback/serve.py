"""The loopback server's two ports: remote procedure calls and sensor data."""

from __future__ import annotations

import asyncio
import contextlib
import os
import struct
import time
from typing import Any

import msgpack

from covr_jax.carla.loopback import wire
from covr_jax.carla.loopback.actors import Actor
from covr_jax.carla.loopback.calls import Calls, stream_of
from covr_jax.carla.loopback.collisions import Collision
from covr_jax.carla.loopback.faults import ARM, PICTURE, Fault, FaultSchedule
from covr_jax.carla.loopback.world import FREE_RUNNING_S, World

_HOST = "127.0.0.1"  # this machine only, since there is no authentication
_LARGEST_MESSAGE = 16 << 20
_EXIT_CODE = 1


class LoopbackServer:
    """Serves one world: remote calls on ``port``, sensor data on ``port + 1``.

    Args:
      world: the simulated state.
      port: the first of the two ports.
      version: version that the server reports.
      schedule: faults to inject.
    """

    def __init__(self, world: World, port: int, version: str, schedule: FaultSchedule):
        self._world, self._port, self._schedule = world, port, schedule
        self._calls = Calls(world, version, port + 1, self.tick, self._send_state)
        self._subscribers: dict[int, set[asyncio.StreamWriter]] = {}

    async def run(self, parent: int | None = None) -> None:
        """Serves until cancelled, or until ``parent``, the process id of the parent, is no longer the parent."""
        rpc = await asyncio.start_server(self._on_call_connection, _HOST, self._port)
        streams = await asyncio.start_server(self._on_stream_connection, _HOST, self._port + 1)
        async with rpc, streams:
            while parent is None or os.getppid() == parent:
                await asyncio.sleep(FREE_RUNNING_S)
                if not self._world.synchronous:
                    self.tick()

    def tick(self) -> int:
        """Runs one time step and sends its data to all subscribers: world state, then collisions, then images.

        Returns:
          The new frame number.
        """
        collisions = self._world.step()
        self._send_state()
        for sensor in list(self._world.actors.values()):
            if sensor.name == "sensor.other.collision":
                for collision in collisions:
                    if collision.actor.number == sensor.parent:
                        self._send(stream_of(sensor), self._collision(sensor, collision))
        for sensor in list(self._world.actors.values()):
            if sensor.name == "sensor.camera.rgb" and self._subscribers.get(stream_of(sensor)):
                self._send_image(sensor)
        return self._world.frame

    def _send_state(self) -> None:
        self._send(wire.WORLD_STREAM, self._header(wire.WORLD, [[0.0] * 3, [0.0] * 3]) + self._state())

    def _state(self) -> bytes:
        world, records = self._world, []
        for actor in world.actors.values():
            extra = b""
            if actor.is_vehicle:
                extra = wire.vehicle_extra(actor.control, world.road.speed_limit)
            elif actor.is_walker:
                extra = wire.walker_extra(actor.walk)
            records.append(wire.actor_state(actor.number, world.pose(actor), actor.velocity, extra))
        return wire.world_body(world.episode, time.monotonic(), world.delta, records)

    def _collision(self, sensor: Actor, collision: Collision) -> bytes:
        actor, other = self._calls.describe(collision.actor), self._calls.describe(collision.other)
        body = wire.pack([actor, other, collision.impulse])
        return self._header(wire.COLLISION, self._world.pose(sensor)) + body

    def _header(self, sensor: int, transform: wire.Transform) -> bytes:
        return wire.header(sensor, self._world.frame, self._world.elapsed, transform)

    def _send_image(self, sensor: Actor) -> None:
        world, pose, stream = self._world, self._world.pose(sensor), stream_of(sensor)
        width, height = (int(sensor.attribute(f"image_size_{axis}", "84")) for axis in "xy")
        fov = float(sensor.attribute("fov", "90"))
        bodies = [actor for actor in world.actors.values() if actor.is_body and actor.number != sensor.parent]
        bgra = world.renderer.render(pose, width, height, fov, world.weather, bodies)
        payload = self._header(wire.CAMERA, pose) + wire.camera_body(width, height, fov, bgra.tobytes())
        fault = self._schedule.count(PICTURE)
        kind = fault.kind if fault else ""
        if kind == "picture-late":
            payload = payload[:8] + struct.pack("<Q", world.frame - 3) + payload[16:]
        elif kind == "picture-cut":
            payload = payload[: len(payload) // 2]
        elif kind == "picture-unknown":
            payload = struct.pack("<Q", 99) + payload[8:]
        elif kind == "picture-twice":
            self._send(stream, payload)
        elif kind == "stream-close":
            for writer in self._subscribers[stream]:
                writer.close()
        if kind not in ("picture-lost", "stream-close"):
            self._send(stream, payload)

    def _send(self, stream: int, payload: bytes) -> None:
        for writer in self._subscribers.get(stream, ()):
            writer.write(wire.packet(payload))

    async def _on_stream_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        stream = None
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            (stream,) = struct.unpack("<I", await reader.readexactly(4))
            self._subscribers.setdefault(stream, set()).add(writer)
            if stream == wire.WORLD_STREAM and not self._world.synchronous:
                self._send_state()
            await reader.read()
        if stream is not None:
            self._subscribers[stream].discard(writer)
            if not self._subscribers[stream]:
                del self._subscribers[stream]
        writer.close()

    async def _on_call_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        unpacker = msgpack.Unpacker(
            strict_map_key=False, unicode_errors="surrogateescape", max_buffer_size=_LARGEST_MESSAGE
        )
        with contextlib.suppress(ConnectionError, msgpack.UnpackException, ValueError):
            while data := await reader.read(1 << 16):
                unpacker.feed(data)
                for message in unpacker:
                    if not await self._reply(message, writer):
                        writer.close()
                        return
        writer.close()

    async def _reply(self, message: list[Any], writer: asyncio.StreamWriter) -> bool:
        """Answers one request. Returns False where the connection must be closed."""
        _, number, name, arguments = message
        if name == ARM:
            self._schedule.add(Fault(*arguments[1:]))
            writer.write(wire.pack([1, number, None, wire.void()]))
            return True
        fault = self._schedule.count(name)
        kind = fault.kind if fault else ""
        if fault and kind == "rpc-hang":
            await asyncio.sleep(fault.seconds)
        elif kind == "rpc-close":
            return False
        elif kind == "server-exit":
            os._exit(_EXIT_CODE)
        error, result = None, None
        if kind == "rpc-error":
            error = "injected"
        elif kind == "rpc-garbage":
            result = ["garbage"]
        else:
            error, result = self._call(name, arguments)
        writer.write(wire.pack([1, number, error, result]))
        return True

    def _call(self, name: str, arguments: list[Any]) -> tuple[str | None, Any]:
        """Returns (error, result) of a procedure; the first of ``arguments`` is the client's call flags."""
        procedure = None if name.startswith("_") or name == "describe" else getattr(self._calls, name, None)
        if procedure is None:
            return f"the loopback server has no procedure {name!r}", None
        try:
            return None, procedure(*arguments[1:])
        except (TypeError, ValueError, KeyError, IndexError) as error:
            return f"{name}: {type(error).__name__}: {error}", None
