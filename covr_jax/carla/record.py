"""Write down what a client and a server say to each other, and compare two such transcripts.

``python -m covr_jax.carla.record --server 127.0.0.1:2000 --port 2100 --output real.jsonl`` stands between them: point
the client at port 2100. It must run on the server's machine, since sensor data goes to the client directly. One line
per pair of procedure and shapes is written, shapes only: names and types, no content.

``python -m covr_jax.carla.record --compare real.jsonl loopback.jsonl`` lists what the second lacks or answers in
another shape; exit code 1 where there is any such thing.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import sys
from pathlib import Path
from typing import Any

import msgpack

from covr_jax.carla.servers import Address, parse_address

_CHUNK = 1 << 16
_LARGEST_MESSAGE = 256 << 20
_DEPTH = 8  # beyond which shapes are not told apart


def shape(value: Any, depth: int = _DEPTH) -> Any:
    """Types instead of values. A list whose parts are alike becomes ``["*", shape]``, whatever its length."""
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
    """Whether two shapes may be the same thing: an empty list is a list of anything."""
    if isinstance(one, str) or isinstance(other, str):
        return one == other
    if not one or not other:
        return True
    if "*" in (one[0], other[0]):
        parts = [shapes[1:] if shapes[0] == "*" else shapes for shapes in (one, other)]
        return all(fits(a, b) for a in parts[0] for b in parts[1])
    return len(one) == len(other) and all(map(fits, one, other))


class Transcript:
    """Collects calls and writes each new (procedure, arguments, error, result) once."""

    def __init__(self, path: Path):
        self._file = path.open("w", encoding="utf-8")
        self._seen: set[str] = set()

    def add(self, name: str, arguments: Any, error: Any, result: Any) -> None:
        """One call and its reply."""
        row = {"call": name, "arguments": shape(arguments), "error": shape(error), "result": shape(result)}
        line = json.dumps(row)
        if line not in self._seen:
            self._seen.add(line)
            print(line, file=self._file, flush=True)

    def close(self) -> None:
        """Nothing more comes."""
        self._file.close()


class CallRecorder:
    """A proxy for the port of the calls."""

    def __init__(self, server: Address, transcript: Transcript):
        self._server, self._transcript = server, transcript

    async def run(self, port: int) -> None:
        """Serve until cancelled, on this machine only."""
        async with await asyncio.start_server(self._connect, "127.0.0.1", port) as proxy:
            await proxy.serve_forever()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        waiting: dict[int, tuple[str, Any]] = {}

        def asked(message: Any) -> None:
            if message[0] == 0:
                waiting[message[1]] = (message[2], message[3])

        def answered(message: Any) -> None:
            if message[0] == 1 and message[1] in waiting:
                self._transcript.add(*waiting.pop(message[1]), message[2], message[3])

        with contextlib.suppress(OSError):
            there, back = await asyncio.open_connection(*self._server)
            await asyncio.gather(_pump(reader, back, asked), _pump(there, writer, answered))
        writer.close()


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter, look: Any) -> None:
    """Pass bytes on, and then look at the messages in them."""
    unpacker = msgpack.Unpacker(
        strict_map_key=False, unicode_errors="surrogateescape", max_buffer_size=_LARGEST_MESSAGE
    )
    with contextlib.suppress(ConnectionError):
        while data := await source.read(_CHUNK):
            target.write(data)
            await target.drain()
            unpacker.feed(data)
            for message in unpacker:
                look(message)
    target.close()


def differences(expected: Path, found: Path) -> list[str]:
    """What ``found`` lacks of ``expected``, or answers in none of its shapes; one line per procedure."""
    wanted, present = _by_call(expected), _by_call(found)
    lines = []
    for name in sorted(wanted):
        if name not in present:
            lines.append(f"{name}: missing")
        elif not any(fits(one, other) for one in wanted[name] for other in present[name]):
            lines.append(f"{name}: {json.dumps(wanted[name][0])} expected, {json.dumps(present[name][0])} found")
    return lines


def _by_call(path: Path) -> dict[str, list[Any]]:
    """The shapes of each procedure's results, where it did not fail."""
    shapes: dict[str, list[Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["error"] == "nil":
            shapes.setdefault(row["call"], []).append(row["result"])
    return shapes


def main() -> int:
    """Record a server, or compare two transcripts."""
    parser = argparse.ArgumentParser(prog="covr_jax.carla.record", description="Transcripts of CARLA's calls.")
    parser.add_argument("--server", default="127.0.0.1:2000", metavar="HOST:PORT")
    parser.add_argument("--port", type=int, default=2100, help="where the client has to connect")
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
