"""Transcripts of remote calls: shapes, differences, and a recorded session."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from covr_jax.carla.env import CarlaEnv
from covr_jax.carla.record import differences, fits, shape
from covr_jax.carla.servers import OwnServer, child_environment, loopback_command


def test_shape_keeps_structure_and_types():
    assert shape([1, 2.5, 3]) == ["*", "number"]
    assert shape([True, "a", b"b", None, 1]) == ["bool", "text", "bytes", "nil", "number"]
    assert shape([["a", []], ["b", [1]]]) == ["*", ["text", ["number"]]]
    assert shape([[1, 2], ["a"]]) == [["*", "number"], ["text"]]


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ([1, []], [1, [["a", 2]]], True),
        ([[1, 2]], [[1, 2, 3, 4]], True),
        ([1, "a"], [1, "a", 2], False),
        ([1, "a"], [1, 2], False),
        ([True], [1], False),
        ("a", b"a", False),
    ],
)
def test_compatible_shapes_fit(one, other, same):
    assert fits(shape(one), shape(other)) == same == fits(shape(other), shape(one))


def transcript(path, **results):
    """A file with one reply per call, and one failed call, which is ignored."""
    rows = [{"call": name, "arguments": [], "error": "nil", "result": shape(value)} for name, value in results.items()]
    rows.append({"call": "never", "arguments": [], "error": "text", "result": "nil"})
    path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


def test_differences_list_missing_and_other_results(tmp_path):
    real = transcript(tmp_path / "real", version=[1, "0.9.16"], tick_cue=[1, 5], lights=[1, [[1, 2]]])
    assert differences(real, transcript(tmp_path / "a", version=[1, "x"], tick_cue=[1, 7], lights=[1, []])) == []
    found = differences(real, transcript(tmp_path / "b", version=[1, 5], tick_cue=[1, 7]))
    assert [line.split(":")[0] for line in found] == ["lights", "version"] and "missing" in found[0]


def test_a_recorded_session_agrees_with_itself(tmp_path):
    pytest.importorskip("carla", reason="the client is not installed")
    server = OwnServer(loopback_command("covr_street"), 30.0)
    server.start()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    output = tmp_path / "calls.jsonl"
    address = f"127.0.0.1:{server.address.port}"
    command = [sys.executable, "-m", "covr_jax.carla.record", "--server", address, "--port", str(port)]
    recorder = subprocess.Popen([*command, "--output", str(output)], env=child_environment())
    env = CarlaEnv("ghost_pedestrian", f"127.0.0.1:{port}", image_size=16)
    try:
        end = time.monotonic() + 20.0
        while not output.exists() and time.monotonic() < end:
            time.sleep(0.02)
        assert env.reset().first() and env.step(np.zeros(2)).mid()
    finally:
        env.close()
        recorder.kill()
        recorder.wait()
        server.stop()
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    by_name = {row["call"]: row for row in rows}
    assert {"version", "get_episode_info", "spawn_actor", "tick_cue", "destroy_actor"} <= set(by_name)
    assert by_name["version"]["result"] == [["number", "text"]]
    assert len(rows) < 80 and differences(output, output) == []
