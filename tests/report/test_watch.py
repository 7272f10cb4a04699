"""The report that grows with its run: what is served, to whom, and in a real browser."""

from __future__ import annotations

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request

import pytest

from covr_jax.commands.watch import Watch
from tests.report.test_browser import BROWSER, FLAGS
from tests.support.synthetic_run import make_run


@pytest.fixture
def watch(tmp_path):
    with Watch(tmp_path / "run", 0, 1) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server, f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def read(address, **headers):
    with urllib.request.urlopen(urllib.request.Request(address, headers=headers), timeout=60) as answer:
        return answer.headers, answer.read().decode()


def test_the_page_grows_with_the_run(watch, tmp_path):
    _, address = watch
    assert "no such run directory" in read(address)[1]  # the run may begin later
    folder = make_run(tmp_path / "run", rounds=1)
    headers, first = read(address)
    assert headers["Refresh"] == "1" and headers["Cache-Control"] == "no-store" and "<svg" in first
    assert read(address)[1] == first
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"env_steps": 99_999, "eval/episode_return": 4321.5}) + "\n")
    later = read(address)[1]
    assert later != first and "4,322" in later and "4,322" not in first


@pytest.mark.parametrize(
    ("path", "headers", "code"),
    [
        ("/config.json", {}, 404),
        ("/../secret", {}, 404),
        ("/", {"Host": "elsewhere.example"}, 403),
    ],
)
def test_nothing_else_is_served_and_nobody_elses_page_may_ask(watch, path, headers, code):
    with pytest.raises(urllib.error.HTTPError) as caught:
        read(watch[1] + path, **headers)
    assert caught.value.code == code


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium or Chrome on the PATH")
def test_a_browser_shows_it_and_asks_again(watch, tmp_path):
    server, address = watch
    make_run(tmp_path / "run", rounds=1)
    asked, page = [], server.page
    server.page = lambda: asked.append(1) or page()
    real_time = [flag for flag in FLAGS if "virtual-time" not in flag]  # which begins again with every page
    command = [BROWSER, *real_time, f"--user-data-dir={tmp_path / 'profile'}"]
    shown = subprocess.run(
        [*command, "--timeout=8000", "--dump-dom", address], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert "<svg" in shown and "cartpole_swingup" in shown and len(asked) == 1
    with subprocess.Popen([*command, "--remote-debugging-port=0", address], stderr=subprocess.DEVNULL) as left_open:
        until = time.monotonic() + 90
        while len(asked) < 4 and time.monotonic() < until:
            time.sleep(0.2)
        left_open.terminate()
    assert len(asked) >= 4  # every second
