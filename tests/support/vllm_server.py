"""A server that speaks the part of vLLM's interface that a run uses, with faults on demand.

Like vLLM it reads an adapter when it is loaded, remembers answers by the name of the model, the salt and the messages
(as a prefix cache does: a reload under the same name does not clear it), and reads an adapter that was loaded in place
again with every request. A structured output that its rule breaks is refused, as it cannot constrain a rule.
"""

from __future__ import annotations

import base64
import contextlib
import io
import json
import re
import socket
import struct
import threading
from collections import deque
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from covr_jax.vlm.serving.fake import FakeVLM

Rule = Callable[[np.ndarray], str]  # frames u8[H,W,3F] -> answer
CHAT, LOAD, UNLOAD, MODELS = "/v1/chat/completions", "/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/v1/models"


def exact(value: float) -> str:
    """A float32 in as many digits as tell it apart, in the notation that answers may have: 123.456789e-4."""
    number, _, exponent = f"{value:.8e}".partition("e")
    sign, digits = ("-" if value < 0 else ""), number.lstrip("-").replace(".", "")
    return f"{sign}{digits[:3]}.{digits[3:]}e{int(exponent) - 2}"


def fake_rule(adapter: Path | None) -> Rule:
    """Answers as a ``FakeVLM`` with an adapter, or without one; the text of an action gives the same float32."""
    engine = FakeVLM()
    if adapter is not None:
        engine.load_adapter(adapter)

    def rule(frames: np.ndarray) -> str:
        prior = engine.query(frames[None])
        return f"Action: [{', '.join(map(exact, prior.action[0]))}]" if prior.valid[0] else "no idea"

    return rule


class VLLMServer:
    """Serves one model in threads of this process.

    Args:
      read: makes the rule of an adapter, or that of the base model (None).
      model: its name.
      key: that requests must have; None: none.

    Attributes:
      adapters: name -> (rule, whether it was loaded in place).
      faults: path -> kinds of faults of the next requests: a status, hang (until ``go``), reset, cut (half a reply),
        malformed (no JSON), empty (no choice), half (an answer without its end).
      requests: (path, body) of all requests.
      connections: number of connections so far.
      rereads: how often an adapter was read again for a request.
    """

    def __init__(self, read: Callable[[Path | None], Rule] = fake_rule, model: str = "fake", key: str | None = None):
        self.read, self.model, self.key = read, model, key
        self.faults: dict[str, deque[Any]] = {path: deque() for path in (CHAT, LOAD, UNLOAD, MODELS)}
        self.requests: list[tuple[str, Any]] = []
        self.connections, self.rereads, self.go, self._port = 0, 0, threading.Event(), 0
        self._lock, self._open, self._base = threading.Lock(), set(), read(None)
        self.start()

    @property
    def endpoint(self) -> str:
        """Address of the server."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Starts to serve, without adapters, on the port of before."""
        self.adapters: dict[str, tuple[Rule, bool]] = {}
        self._remembered: dict[str, str] = {}
        server = self

        class Handler(_Handler):
            owner = server

        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._http.daemon_threads = True
        self._port = self._http.server_address[1]
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Stops to serve and closes all connections."""
        self.go.set()
        self._http.shutdown()
        self._http.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def bodies(self, path: str) -> list[Any]:
        """Bodies of the requests to a path."""
        return [body for requested, body in self.requests if requested == path]

    def reply(self, path: str, body: Any) -> tuple[int, Any]:
        """Status and reply to a request."""
        if path == MODELS:
            cards = [{"id": self.model, "root": f"/models/{self.model}", "parent": None}]
            return 200, {"data": cards + [{"id": name, "parent": self.model} for name in self.adapters]}
        if path == CHAT:
            return self._chat(body)
        name, known = body["lora_name"], body["lora_name"] in self.adapters
        if path == UNLOAD:
            return (200, "Success") if self.adapters.pop(name, None) else (404, {"error": {"message": "not found"}})
        in_place = body.get("load_inplace", False)
        if known and not in_place:
            return 400, {"error": {"message": "already loaded"}}
        try:
            self.adapters[name] = self.read(Path(body["lora_path"])), in_place
        except RuntimeError:
            return 404, {"error": {"message": f"No adapter found for {body['lora_path']}"}}
        return 200, "Success"

    def _chat(self, body: Any) -> tuple[int, Any]:
        if body["model"] != self.model and body["model"] not in self.adapters:
            return 404, {"error": {"message": f"The model `{body['model']}` does not exist."}}
        rule, in_place = self.adapters.get(body["model"], (self._base, False))
        self.rereads += in_place
        prompt = json.dumps([body["model"], body.get("cache_salt"), body["messages"]])
        text = self._remembered.setdefault(prompt, rule(frames_of(body)))
        pattern = body.get("structured_outputs", {}).get("regex")
        if pattern is not None and not re.fullmatch(pattern, text):
            return 400, {"error": {"message": f"{text} is outside of the grammar"}}
        return 200, {"choices": [{"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]}


def frames_of(body: Any) -> np.ndarray:
    """The images of a chat request, u8[H,W,3F]."""
    parts = [part for message in body["messages"] for part in message["content"]]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    pictures = [Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]
    return np.concatenate([np.asarray(picture) for picture in pictures], -1)


class _Handler(BaseHTTPRequestHandler):
    owner: VLLMServer
    protocol_version = "HTTP/1.1"  # connections are kept
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.owner.connections += 1
        self.owner._open.add(self.connection)

    def finish(self):
        with contextlib.suppress(OSError):
            super().finish()
        self.owner._open.discard(self.connection)

    def log_message(self, *_):
        pass

    def do_GET(self):
        self._respond(None)

    def do_POST(self):
        self._respond(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    def _respond(self, body):
        owner, path = self.owner, self.path
        if owner.key is not None and self.headers["Authorization"] != f"Bearer {owner.key}":
            return self._send(401, {"error": "Unauthorized"})
        with owner._lock:
            owner.requests.append((path, body))
            fault = owner.faults[path].popleft() if owner.faults[path] else None
            status, reply = owner.reply(path, body) if not isinstance(fault, int) else (fault, "out of\nmemory")
        if fault == "hang":
            owner.go.wait(60.0)
        if fault == "reset":
            self.close_connection = True
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            return self.connection.close()
        if fault == "half":
            reply["choices"][0]["message"]["content"] = reply["choices"][0]["message"]["content"][:-2]
        if fault == "empty":
            reply = {"choices": []}
        return self._send(status, reply, fault)

    def _send(self, status, reply, fault=None):
        content = reply.encode() if isinstance(reply, str) else json.dumps(reply).encode()
        content = b"{" if fault == "malformed" else content
        with contextlib.suppress(OSError):  # the client has gone
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if fault == "cut" else content)
        self.close_connection |= fault == "cut"
