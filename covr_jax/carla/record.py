"""Records the remote calls between a client and a server, and compares two such transcripts.

``python -m covr_jax.carla.record --server 127.0.0.1:2000 --port 2100 --output real.jsonl`` is a proxy: point the client
at port 2100. It must run on the server's machine, since sensor data go to the client directly. It writes one line per
pair of procedure and shapes. A shape is the structure of a message and the types in it, without the values.

``python -m covr_jax.carla.record --compare real.jsonl loopback.jsonl`` lists the procedures that the second transcript
lacks or answers in another shape; the exit code is 1 where there are any.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack

from covr_jax.carla.servers import Address, parse_address

_CHUNK = 1 << 16
_LARGEST_MESSAGE = 256 << 20
_DEPTH = 8  # nesting below which shapes are not told apart


def shape(value: Any, depth: int = _DEPTH) -> Any:
    """Replaces values by their types. A list of similar parts becomes ``["*", shape]``, whatever its length."""
    if isinstance(value, list | tuple) and depth:
        parts = [shape(part, depth - 1) for part in value]
        if len(parts) > 1 and all(fits(part, parts[0]) for part in parts):
            return ["*", max(parts, key=lambda part: len(json.dumps(part)))]
        return parts
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int | float):
        return "number"  # msgpack sends whole floats of some clients as integers
    return {str: "text", bytes: "bytes", type(None): "nil"}.get(type(value), type(value).__name__)


def fits(one: Any, other: Any) -> bool:
    """Whether two shapes are compatible: an empty list fits every list."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    if not one or not other:
        return True
    if "*" in (one[0], other[0]):
        parts = [shapes[1:] if shapes[0] == "*" else shapes for shapes in (one, other)]
        return all(fits(a, b) for a in parts[0] for b in parts[1])
    return len(one) == len(other) and all(map(fits, one, other))


class Transcript:
    """Writes each new tuple (procedure, arguments, error, result) of shapes to a JSONL file, once."""

    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8")
        self._seen: set[str] = set()

    def add(self, name: str, arguments: Any, error: Any, result: Any) -> None:
        """Adds one call and its reply."""
        row = {"call": name, "arguments": shape(arguments), "error": shape(error), "result": shape(result)}
        line = json.dumps(row)
        if line not in self._seen:
            self._seen.add(line)
            print(line, file=self._file, flush=True)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()


class CallRecorder:
    """A proxy for the port of the remote calls."""

    def __init__(self, server: Address, transcript: Transcript):
        self._server, self._transcript = server, transcript

    async def run(self, port: int) -> None:
        """Serves on 127.0.0.1 until cancelled."""
        async with await asyncio.start_server(self._connect, "127.0.0.1", port) as proxy:
            await proxy.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pending: dict[int, tuple[str, Any]] = {}

        def on_request(message: Any) -> None:
            if message[0] == 0:
                pending[message[1]] = (message[2], message[3])

        def on_reply(message: Any) -> None:
            if message[0] == 1 and message[1] in pending:
                self._transcript.add(*pending.pop(message[1]), message[2], message[3])

        with contextlib.suppress(OSError):
            server_reader, server_writer = await asyncio.open_connection(*self._server)
            await asyncio.gather(_pump(reader, server_writer, on_request), _pump(server_reader, writer, on_reply))
        writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, on_message: Callable[[Any], None]) -> None:
    """Forwards bytes, and then calls ``on_message`` with each message in them."""
    unpacker = msgpack.Unpacker(
        strict_map_key=False, unicode_errors="surrogateescape", max_buffer_size=_LARGEST_MESSAGE
    )
    with contextlib.suppress(ConnectionError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
            unpacker.feed(data)
            for message in unpacker:
                on_message(message)
    target.close()


def differences(expected: Path, found: Path) -> list[str]:
    """Lists the procedures that ``found`` lacks, or answers in none of the shapes of ``expected``, one line each."""
    wanted, present = _results_by_call(expected), _results_by_call(found)
    lines = []
    for name in sorted(wanted):
        if name not in present:
            lines.append(f"{name}: missing")
        elif not any(fits(one, other) for one in wanted[name] for other in present[name]):
            lines.append(f"{name}: {json.dumps(wanted[name][0])} expected, {json.dumps(present[name][0])} found")
    return lines


def _results_by_call(path: Path) -> dict[str, list[Any]]:
    """Shapes of the results of each procedure's calls that did not fail."""
    shapes: dict[str, list[Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["error"] == "nil":
            shapes.setdefault(row["call"], []).append(row["result"])
    return shapes


def main() -> int:
    """Records a server, or compares two transcripts; returns the exit code."""
    parser = argparse.ArgumentParser(prog="covr_jax.carla.record", description="Transcripts of CARLA's calls.")
    parser.add_argument("--server", default="127.0.0.1:2000", metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=2100, help="port for the client to connect to")
    parser.add_argument("--output", type=Path, default=Path("carla_calls.jsonl"))
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("EXPECTED", "FOUND"))
    options = parser.parse_args()
    if options.compare:
        lines = differences(*options.compare)
        print("\n".join(lines) or "no differences")
        return int(bool(lines))
    transcript = Transcript(options.output)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(CallRecorder(parse_address(options.server), transcript).run(options.port))
    transcript.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
