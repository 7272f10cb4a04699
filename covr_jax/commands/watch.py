"""Serves the report of a run on this machine, and draws it again while the run trains.

python experiments/watch.py runs/cartpole_swingup/covr/seed1
python experiments/watch.py runs/cartpole_swingup/covr/seed1 --port 8000 --every 5

The browser asks again by itself. Nothing is written, and nobody else's browser is answered: on another machine, forward
the port with ssh -L.
"""

from __future__ import annotations

import argparse
import html
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

from covr_jax.commands import program
from covr_jax.report import ReportError, render_report

HOST = "127.0.0.1"
_NAMES = (HOST, "localhost")  # by which a browser on this machine may ask: a page elsewhere could name another


class Watch(ThreadingHTTPServer):
    """A server of one page, drawn anew when the run has written something and somebody asks.

    Args:
      run_dir: of the run; it may begin later.
      port: 0 for a free one, which ``server_port`` then is.
      every: seconds after which the browser asks again.

    Raises:
      OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, run_dir: Path, port: int, every: int):
        super().__init__((HOST, port), _Handler)
        self.run_dir, self.every = run_dir, every
        self._lock, self._drawn, self._page = threading.Lock(), None, ""

    def page(self) -> str:
        """The report as it is now; a line that says why, where there is none."""
        files = ("config.json", "metrics.jsonl", "result.json", "diverged.json", "videos/final.mp4")
        with self._lock:
            now = [_stamp(self.run_dir / name) for name in files]
            if now != self._drawn:
                try:
                    self._page = render_report(self.run_dir)
                except (ReportError, OSError) as error:
                    self._page = f"<!doctype html><title>covr_jax</title><p>{html.escape(str(error))}</p>"
                self._drawn = now
            return self._page


def _stamp(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


class _Handler(BaseHTTPRequestHandler):
    server: Any  # a Watch

    def do_GET(self) -> None:
        """Answers with the page, and when to ask again."""
        if self.headers.get("Host", "").rsplit(":", 1)[0] not in _NAMES:
            return self.send_error(403, "Only for this machine")
        if self.path != "/":
            return self.send_error(404)
        data = self.server.page().encode("utf-8", errors="replace")
        self.send_response(200)
        for name, value in (("Content-Type", "text/html; charset=utf-8"), ("Cache-Control", "no-store")):
            self.send_header(name, value)
        self.send_header("Refresh", str(self.server.every))
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
        return None

    def log_message(self, *_: Any) -> None:
        """Prints nothing for a request."""


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path, help="directory that train.py writes")
    parser.add_argument("--port", type=int, default=0, help="default: a free one")
    parser.add_argument("--every", type=int, default=10, metavar="SECONDS", help="between two looks (default: 10)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Serves until it is interrupted; returns its exit status."""
    options = parse(arguments)
    try:
        server = Watch(options.run_dir, options.port, max(options.every, 1))
    except (OSError, OverflowError) as error:
        print(f"{program()}: port {options.port}: {error}", file=sys.stderr)
        return 2
    with server:
        print(f"http://{HOST}:{server.server_port}/", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


def run() -> NoReturn:
    """Runs ``main`` as a command."""
    sys.exit(main())
