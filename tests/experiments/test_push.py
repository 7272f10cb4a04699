"""Sharing on the Hub: what is uploaded, against a local server with the part of the Hub's interface that it meets."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest


class Hub(BaseHTTPRequestHandler):
    """Takes a repository and commits of regular files; answers 401 to another token."""

    kept: ClassVar[dict] = {}

    def do_POST(self):
        """Notes the request and answers as the Hub does."""
        length = self.headers.get("Content-Length")
        body = self.rfile.read(int(length)) if length else self.chunks()
        if self.headers.get("Authorization") != "Bearer hf_right":
            return self.answer(401, {"error": "Invalid credentials in Authorization header"})
        if self.path == "/api/repos/create":
            self.kept["repository"] = json.loads(body)
            return self.answer(200, {"url": f"http://{self.headers['Host']}/people/cartpole"})
        if self.path == "/api/validate-yaml":
            return self.answer(200, {"errors": [], "warnings": []})
        if self.path == "/api/models/people/cartpole/preupload/main":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False, "oid": None}
                for file in json.loads(body)["files"]
            ]
            return self.answer(200, {"files": files})
        assert self.path == "/api/models/people/cartpole/commit/main"
        for line in map(json.loads, body.decode().splitlines()):
            if line["key"] == "file":
                self.kept[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
        address = f"http://{self.headers['Host']}/people/cartpole/commit/{'a' * 40}"
        return self.answer(200, {"success": True, "commitOid": "a" * 40, "commitUrl": address})

    def do_GET(self):
        """Knows nothing beside."""
        self.answer(404, {"error": "not found"})

    def chunks(self):
        """The body of a request without a length."""
        whole = b""
        while size := int(self.rfile.readline(), 16):
            whole += self.rfile.read(size)
            self.rfile.readline()
        return whole

    def answer(self, code, content):
        """Sends JSON."""
        data = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        """Prints nothing."""


@pytest.fixture
def hub():
    handler = type("Handler", (Hub,), {"kept": {}})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", handler.kept
        server.shutdown()


UPLOAD = """
import sys
from pathlib import Path
from covr_jax.commands.push import upload
from covr_jax.config import ConfigError
try:
    print(upload(Path(sys.argv[1]), "people/cartpole", private=True))
except ConfigError as error:
    print(error)
"""


def uploaded(folder, endpoint, token, home):
    surroundings = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_OFFLINE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", UPLOAD, str(folder)],
        env=os.environ | surroundings | {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()[-1]


def test_a_directory_is_one_commit_in_a_repository_that_is_made(hub, tmp_path):
    endpoint, kept = hub
    folder = tmp_path / "shared"
    (folder / "adapter").mkdir(parents=True)
    content = {
        "policy.safetensors": b"\x00\x01policy",
        "adapter/adapter_model.safetensors": b"adapter",
        "README.md": b"# card",
    }
    for name, data in content.items():
        (folder / name).write_bytes(data)
    assert uploaded(folder, endpoint, "hf_right", tmp_path) == f"{endpoint}/people/cartpole/commit/{'a' * 40}"
    repository = kept.pop("repository")
    assert (repository["organization"], repository["name"]) == ("people", "cartpole")
    assert kept == content


def test_a_wrong_token_is_one_line(hub, tmp_path):
    endpoint, kept = hub
    (tmp_path / "shared").mkdir()
    line = uploaded(tmp_path / "shared", endpoint, "hf_wrong", tmp_path)
    assert line.startswith("the Hub does not take people/cartpole: ") and line.endswith(
        "; hf auth login, or set HF_TOKEN"
    )
    assert "401" in line and not kept
